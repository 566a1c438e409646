"""The table of mutations as Markdown: docs/mutations.md."""

from collections import Counter

from conformance.harness import catalogue


def change(m, width=200):
    """Return what a mutation does, in one line."""
    if m.call:
        return f"{m.call}: if {m.when}: {m.change}"[:width]
    if m.lie:
        return f"{m.target} lies: {m.lie}"
    old, new = (" ".join(text.split())[:width] for text in (m.old, m.new))
    return f"{old} → {new}"


def markdown(seen, unshown):
    """Return the table of faults and of what each test made of them.

    seen: rows of mutations.json. unshown: {id: why no fault shows that its test can fail}.
    """
    counts = Counter(r["verdict"] for r in seen)
    must = [i for i, row in catalogue.rows().items() if row.level == "must"]
    caught = {r["mutation"].id for r in seen if r["verdict"] == "caught"}
    words = [f"{counts.pop('caught', 0)} caught", f"{counts.pop('survived', 0)} survived"]
    words += [f"{n} {word}" for word, n in counts.items()]
    shown = f"{len(caught.intersection(must))} of {len(must)}"
    out = [
        "# Mutations",
        "",
        "<!-- made by ci/mutations from conformance/selftest/mutations.toml -->",
        "",
        f"Faults put into a copy of pyeal, one at a time: **{', '.join(words)}**. Each test",
        "stands for the requirement that the fault breaks; it fails with the fault and passes",
        f"right after without it. For {shown} requirements of level must a fault",
        "shows that the test can fail. The others are:",
    ]
    out += ["", *(f"- {id}: {why}" for id, why in unshown.items())]
    return "\n".join(out + table(seen)) + "\n"


def lies(seen):
    """Return the table of changed calls of librte_eal. seen: rows of lies.json."""
    counts = Counter(r["verdict"] for r in seen)
    out = [
        "# Lies about calls of librte_eal",
        "",
        "<!-- made by ci/mutations --target librte_eal from conformance/selftest/lies.toml -->",
        "",
        "A preloaded library changes one call of the installed librte_eal. The test of the row",
        "fails with the change and passes right after without it: "
        f"**{', '.join(f'{n} {word}' for word, n in counts.items())}**.",
    ]
    return "\n".join(out + table(seen)) + "\n"


def table(seen):
    """Return the lines of a table for each family."""
    out = []
    family = None
    for r in sorted(seen, key=lambda r: r["mutation"].id):
        m, verdict = r["mutation"], r["verdict"]
        if (at := m.id.partition("-")[0]) != family:
            family = at
            out += ["", f"## {family}", "", "| id | file | change | test | it said |"]
            out += ["|---|---|---|---|---|"]
        said = r["said"] if verdict == "caught" else f"**{verdict}** {r['said']}"
        test = r["test"].replace("::", " ")
        where = m.file.removeprefix("pyeal/") or "(lie)"
        out += [f"| {m.id} | {where} | {code(change(m, 90))} | {code(test)} | {code(said)} |"]
    return out


def code(text):
    """Return text literally, for a cell of a table."""
    text = text.replace("|", "\\|").replace("`", "'")
    return f"`{text}`" if text else ""
