"""Merging: what is refused, what is kept of many hosts, what it costs."""

import json
import tracemalloc

import pytest

from conformance.runner.report import command, merge, pages, results
from conformance.units import fleet

IDS = [f"AAA-{i:03}" for i in range(1, 13)]


def refused(*paths):
    with pytest.raises(results.BadMerge) as e:
        merge.merge(paths)
    return str(e.value)


def test_target_and_host_make_the_matrix(tmp_path):
    bad = {"AAA-003": ("failed", "no"), "AAA-004": ("skipped", "wanted 8 free 2M pages, found 0")}
    a = fleet.write(tmp_path / "a", fleet.run("a", IDS), fleet.run("a", IDS, target="librte_eal"))
    b = fleet.write(tmp_path / "b", fleet.run("b", IDS, bad))
    m = merge.merge([a, b])

    assert list(m.columns) == [("pyeal", "22.11.11"), ("librte_eal", "22.11.11")]
    assert list(m.hosts) == ["a", "b"]
    assert m.counts(0) == {"passed": 11, "failed": 1}  # AAA-004 ran on one host
    assert m.counts(1) == {"passed": 12}
    (group,) = (g for g in m.cells["AAA-004"][0].values() if g.verdict == "skipped")
    assert group.hosts == [1]


@pytest.mark.parametrize(
    "cut, said",
    [
        (lambda lines: lines[:-1], "12 of 12 tests, no last line"),
        (lambda lines: [*lines[:8], lines[-1]], "2 of 12 tests, aaa/test_it.py::test_aaa_003_0"),
        (lambda lines: [*lines[:-1], '{"$report_type":"SessionFinish","exitstatus":2}'], "with 2"),
    ],
    ids=["no end", "tests missing", "interrupted"],
)
def test_a_run_that_ended_early_is_refused(tmp_path, cut, said):
    lines = fleet.write(tmp_path / "a", fleet.run("a", IDS)).read_text().splitlines()
    (tmp_path / "a").write_text("\n".join(cut(lines)) + "\n")
    text = refused(tmp_path / "a")

    assert f"{tmp_path}/a: pyeal 22.11.11 on a ended early: " in text
    assert said in text


def test_one_target_twice_on_one_host_is_refused(tmp_path):
    a, b = (fleet.write(tmp_path / n, fleet.run("h", IDS)) for n in "ab")

    assert f"{b}: pyeal 22.11.11 on h is in {a} too" in refused(a, b)


def test_a_target_is_itself_however_many_there_were(tmp_path):
    """librte_eal:22.11 of a run with four releases is librte_eal of another; not in one run."""
    a = fleet.write(tmp_path / "a", fleet.run("a", IDS, target="pyeal:22.11.11 × librte_eal:22.11"))
    b = fleet.write(tmp_path / "b", fleet.run("b", IDS, target="pyeal × librte_eal"))
    both = (fleet.run("c", IDS, target=t) for t in ("librte_eal", "librte_eal:22.11"))
    m = merge.merge([a, b, fleet.write(tmp_path / "c", *both)])

    assert [t for t, _ in m.columns] == ["pyeal × librte_eal", "librte_eal", "librte_eal:22.11"]


def test_one_name_for_two_hosts_is_refused(tmp_path):
    a = fleet.write(tmp_path / "a", fleet.run("h", IDS))
    records = list(fleet.run("h", IDS, target="librte_eal"))
    records[0]["host"]["kernel"] = "5.10.0"
    b = fleet.write(tmp_path / "b", records)

    assert "h is another host before, kernel 6.1.0, not 5.10.0" in refused(a, b)


def test_unequal_ids_are_refused_by_name(tmp_path):
    paths = [fleet.write(tmp_path / h, fleet.run(h, IDS)) for h in "abc"]
    short = fleet.write(tmp_path / "d", fleet.run("d", [*IDS[3:], "BBB-001"]))

    text = refused(*paths, short)
    assert f"{short}: pyeal 22.11.11 on d lacks AAA-001, AAA-002 and 1 more" in text
    assert "has besides BBB-001" in text


def test_runs_of_some_ids_are_merged_when_that_is_meant(tmp_path):
    whole = fleet.write(tmp_path / "a", fleet.run("a", IDS))
    some = fleet.write(tmp_path / "b", fleet.run("b", IDS[:3], ids=["AAA-00[123]"]))
    odd = fleet.write(tmp_path / "c", fleet.run("c", IDS[:2], ids=["AAA-00[123]"]))
    m = merge.merge([whole, some], partial=True)

    assert "on b lacks AAA-004" in refused(whole, some)
    assert m.counts(0) == {"passed": 12} and len(m.facts) == 2 and not m.chosen
    with pytest.raises(results.BadMerge, match="on c lacks AAA-003"):
        merge.merge([whole, some, odd], partial=True)


def test_pairs_are_asked_fewer_rows(tmp_path):
    pair = fleet.run("a", IDS[:4], target="pyeal × librte_eal", secondary="librte_eal")
    m = merge.merge([fleet.write(tmp_path / "a", fleet.run("a", IDS), pair)])

    assert [sum(m.counts(c).values()) for c in range(2)] == [12, 4]


def test_no_run_and_no_header_are_refused(tmp_path):
    (tmp_path / "empty").write_text("")
    (tmp_path / "plain").write_text('{"$report_type": "SessionStart"}\n')

    assert "no run in it" in refused(tmp_path / "empty")
    assert "plain:1: no header of a run before it" in refused(tmp_path / "plain")


def test_a_fleet_costs_no_more_memory_than_some_of_it(tmp_path):
    def peak(n):
        files = list(fleet.fleet(tmp_path / str(n), n, IDS, tests=4))
        tracemalloc.start()
        m = merge.merge(files)
        got = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return got, m

    (few, _), (many, m) = peak(10), peak(80)

    assert len(m.facts) == 80
    assert many < 2 * few
    assert all(len(g) <= merge.KEEP + 4 for cells in m.cells.values() for g in cells.values())
    every = sorted(h for g in m.cells["AAA-001"][0].values() for h in g.hosts)
    assert every == list(range(80))


def test_outcomes_of_a_cell_are_told_apart_up_to_a_number(tmp_path):
    why = "abcdefghijklmnop"
    runs = [fleet.run(h, IDS[:1], {IDS[0]: ("failed", f"{h} is wrong")}) for h in why]
    m = merge.merge([fleet.write(tmp_path / "all", *runs)])
    groups = m.cells[IDS[0]][0].values()

    assert len(groups) == merge.KEEP + 1
    assert sum(len(g.hosts) for g in groups) == len(why)


def test_history_is_of_the_same_target(tmp_path):
    old = {"AAA-002": ("failed", "no")}
    earlier = [
        fleet.write(tmp_path / "2", fleet.run("a", IDS, started="2026-11-02", revision="two")),
        fleet.write(tmp_path / "1", fleet.run("a", IDS, old, started="2026-11-01", revision="one")),
        fleet.write(tmp_path / "x", fleet.run("a", IDS, target="other")),
    ]
    m = merge.merge([fleet.write(tmp_path / "now", fleet.run("a", IDS))], earlier)

    assert m.earlier[:2] == [("2026-11-01", "one"), ("2026-11-02", "two")]
    assert m.history["AAA-002", 0] == {0: "failed", 1: "passed"}


def test_command_writes_page_markdown_and_badges(tmp_path, capsys):
    bad = {"AAA-003": ("failed", "no `such` thing")}
    a = fleet.write(tmp_path / "a", fleet.run("a", IDS, bad))
    b = fleet.write(tmp_path / "b", fleet.run("b", IDS))
    out = tmp_path / "out"

    assert command.main(["merge", str(a), str(b), "-o", str(out)]) == 1
    assert json.loads((out / "badges/pyeal_22.11.11.json").read_text()) == {
        "schemaVersion": 1,
        "label": "pyeal 22.11.11",
        "message": "1 failed, 11 passed",
        "color": "red",
    }
    text = (out / "matrix.md").read_text()
    assert "| AAA | 11 / 0 / 1 / 0 |" in text
    assert "| a | 6.1.0 | AMD EPYC | 512 × 2M, 0 × 1G | 11 / 0 / 1 / 0 |" in text
    assert "- AAA-003 on pyeal 22.11.11, 1 of 2 hosts: `no 'such' thing`" in text
    assert (out / "index.html").exists() and (out / "summary.json").exists()
    assert command.main(["merge", str(a), str(a), "-o", str(out)]) == 2
    assert "leave one out" in capsys.readouterr().err


def test_ranges():
    assert pages.ranges([5, 0, 1, 2, 7, 8]) == [0, 2, 5, 5, 7, 8]
