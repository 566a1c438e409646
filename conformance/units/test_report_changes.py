"""Two runs compared: exactly the rows that changed, and the facts that are the reason."""

import json

import pytest

from conformance.runner.report import changes
from conformance.units import fleet

IDS = [f"AAA-{i:03}" for i in range(1, 7)]
PAGES = {"AAA-003": ("skipped", "wanted 8 free 2M pages, found 0")}
RELEASE = {"AAA-004": ("skipped", "not in this release: >=22.11, target is 20.11.10")}
FAILED = {"AAA-001": ("failed", "assert 1 == 2"), "AAA-005": ("failed", "assert 1 == 2")}


def diff(tmp_path, capsys, first, second, *more):
    paths = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for path, runs in zip(paths, (first, second), strict=True):
        fleet.write(path, *runs)
    code = changes.main([*map(str, paths), *more])
    return code, capsys.readouterr()


def one(id_verdicts, ids=IDS, pages=512, **more):
    """A run; pages: of 2M on its host."""
    head, *rest = fleet.run("h", ids, id_verdicts, **more)
    head["host"]["pools"]["2M"]["total"] = pages
    return [head, *rest]


def test_only_rows_that_changed_with_the_fact_that_is_the_reason(tmp_path, capsys):
    first = one({"AAA-005": FAILED["AAA-005"]})
    second = one(FAILED | PAGES | RELEASE, pages=0, release="20.11.10", kernel="5.10")
    code, out = diff(tmp_path, capsys, [first], [second], "--json")
    (found,) = json.loads(out.out)["targets"]
    rows = {x["id"]: x for x in found["changed"]}

    assert code == changes.CHANGED
    assert list(rows) == ["AAA-001", "AAA-003", "AAA-004"]
    assert (found["alike"], found["only"]) == (3, [[], []])
    assert found["facts"]["release"] == ["22.11.11", "20.11.10"]
    assert rows["AAA-003"]["because"] == ["pages"]
    assert rows["AAA-004"]["because"] == ["release"]
    assert rows["AAA-001"]["verdicts"] == ["passed", "failed"]
    assert (rows["AAA-001"]["because"], rows["AAA-001"]["may_be"]) == ([], ["release", "pages"])


def test_text_names_the_revisions_that_differ(tmp_path, capsys):
    built = {"repository": "/r", "subject": "s", "date": "d", "command": "c", "compiler": ""}
    runs = ([one(v, source={**built, "revision": r})] for v, r in (({}, "aa"), (FAILED, "bb")))
    code, out = diff(tmp_path, capsys, *runs)

    assert code == changes.CHANGED
    assert "  revision: aa -> bb\n" in out.out
    assert "AAA-001: passed -> failed\n  What AAA-001 says" in out.out
    assert "  failed: assert 1 == 2\n  may be because of: revision" in out.out
    assert out.out.endswith("2 changed, 4 alike\n")


def test_equal_runs_and_rows_of_one_run_alone(tmp_path, capsys):
    assert diff(tmp_path, capsys, [one(FAILED)], [one(FAILED)])[0] == changes.ALIKE
    code, out = diff(tmp_path, capsys, [one({})], [one({}, IDS[1:])])

    assert code == changes.CHANGED
    assert "only in the first: AAA-001\n" in out.out


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ([one({})], [], "second.jsonl: no run in it"),
        ([one({})], [one({}, finished=None)], "ended early"),
        (
            [one({}, target="a"), one({}, target="b")],
            [one({}, target="c"), one({}, target="d")],
            "no target is in both runs: a, b and c, d",
        ),
    ],
    ids=["empty", "cut", "other targets"],
)
def test_runs_that_cannot_be_compared(tmp_path, capsys, first, second, says):
    code, out = diff(tmp_path, capsys, first, second)

    assert (code, out.out) == (changes.COULD_NOT, "")
    assert says in out.err
