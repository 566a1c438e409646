"""`pyeal stale`: what kill -9 leaves is found and removed; what a process holds stays."""

from __future__ import annotations

import os

from conformance import MB, needs


def items(facts, eal, *args, **more):
    """What it says of that EAL: others of this machine are left alone."""
    return facts("stale", eal.prefix, *args, **more)["items"]


@needs(pages={"2M": 4})
def test_after_kill_9_all_goes_and_nothing_else(start, kind, facts, prefix, evidence):
    """Two of a prefix each: the killed one's pages and directory are gone, the other's are not."""
    dead, alive = (start("-m", "4", target=kind, prefix=f"{prefix}_{x}") for x in ("d", "a"))
    before = items(facts, alive, "-a")
    dead.kill()
    found = items(facts, dead, code=1)
    deleted = items(facts, dead, "--delete", "-y", code=0)
    evidence("; ".join(f"{f['shown']}: {f['verdict']}, {f['why']}" for f in found))

    assert {f["verdict"] for f in before} == {"held"}
    assert [(f["kind"], f["verdict"], f["bytes"]) for f in found[:2]] == [
        ("page", "stale", 2 * MB)
    ] * 2
    assert (found[2]["kind"], found[2]["verdict"]) == ("directory", "stale")
    assert {f["deleted"] for f in deleted} == {True}
    assert not dead.page_files() and not dead.run.exists()
    assert len(alive.page_files()) == 2 and (alive.run / "config").exists()
    assert alive.malloc(MB).va


@needs(pages={"2M": 2})
def test_pages_kept_on_purpose_stay(start, facts):
    """--huge-unlink=never leaves files that are no leaks: told apart, kept unless asked for."""
    eal = start("-m", "4", "--huge-unlink=never", target="librte_eal:24.11")
    eal.close()
    found = [f for f in items(facts, eal, code=1) if f["kind"] == "page"]
    items(facts, eal, "--delete", "-y", code=1)
    stayed = len(eal.page_files())
    items(facts, eal, "--delete", "--kept", "-y", code=0)

    assert [(f["verdict"], f["holders"]) for f in found] == [("kept?", [])] * 2
    assert (stayed, len(eal.page_files())) == (2, 0)


@needs(pages={"2M": 2})
def test_in_a_pid_namespace_nothing_is_proven(start, facts):
    """Locks of outside are not listed there: unknown, and --delete touches nothing."""
    eal = start("-m", "4", target="librte_eal:22.11")
    inside = [*eal.box.enter, "unshare", "--pid", "--fork", "--mount-proc"]
    found = [f for f in items(facts, eal, code=1, prefix=inside) if f["kind"] == "page"]
    items(facts, eal, "--delete", "-y", code=1, prefix=inside)

    assert [f["verdict"] for f in found] == ["unknown"] * 2
    assert "PID namespace" in found[0]["why"]
    assert len(eal.page_files()) == 2 and eal.malloc(64).va


@needs(pages={"2M": 2})
def test_a_file_that_is_only_open_is_held(start, facts):
    eal = start("-m", "4", target="librte_eal:22.11")
    eal.kill()
    name = eal.page_files()[0]
    fd = os.open(eal.hugedir() / name, os.O_RDONLY)
    try:
        found = {f["shown"].rpartition("/")[2]: f for f in items(facts, eal, "-a", code=1)}
    finally:
        os.close(fd)

    assert (found[name]["verdict"], found[name]["holders"]) == (
        "held",
        [{"pid": os.getpid(), "by": ["open"]}],
    )


@needs(pages={"2M": 2})
def test_links_and_what_others_put_there_stay(start, facts, tmp_path):
    """A link with the name of an array is no array; foreign files keep the directory."""
    eal = start("-m", "2", target="librte_eal:22.11")
    eal.kill()
    (target := tmp_path / "target").write_text("mine")
    (eal.run / "fbarray_link").symlink_to(target)
    (eal.run / "notes").write_text("mine")
    items(facts, eal, "--delete", "-y", code=0)

    assert target.read_text() == "mine"
    assert sorted(os.listdir(eal.run)) == ["fbarray_link", "notes"]
    assert not eal.page_files()


@needs(pages={"2M": 8})
def test_the_file_of_a_page_that_legacy_memory_did_not_get(start, make_box, facts):
    """It takes pages until one fails, whose file stays empty: it is not kept on purpose."""
    eal = start("-m", "4", mode="legacy", target="librte_eal:22.11", box=make_box({"2M": 4}))
    eal.kill()
    found = [f for f in items(facts, eal, code=1) if f["kind"] == "page"]

    assert {f["verdict"] for f in found} == {"stale"}
    assert sorted(f["bytes"] for f in found) == [0, 2 * MB, 2 * MB]
