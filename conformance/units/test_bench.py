"""pyeal bench: rows and their verdicts, comparison, what is kept, the page."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conformance import needs
from conformance.campaigns.timing import rig as rigs
from conformance.campaigns.timing import works
from conformance.campaigns.timing.rows import ROWS, Row, judge, waits_of
from pyeal.tools import bench, bench_page


@pytest.mark.parametrize(
    ("reference", "what"), [("23.11.7", "pyeal 23.11.7"), ("22.11.11", "pyeal")]
)
def test_pyeal_is_measured_as_the_references_release(
    reference: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secondary attaches to a primary of its own release alone."""
    monkeypatch.setattr(rigs.Rig, "_build", lambda self, name: name)
    monkeypatch.setattr(rigs.Rig, "_own", lambda self, spec, path: (("eal", path), reference))
    rig = rigs.Rig(tmp_path, "pyeal", "librte_eal:/opt/dpdk")

    assert (rig.reference.what, rig.target.what) == (f"librte_eal {reference}", what)
    assert reference in rig.target.argv


def test_a_work_that_the_release_lacks_has_a_reason(tmp_path: Path) -> None:
    old = rigs.Arm("reference", ("eal",), "librte_eal 21.11.9")
    with pytest.raises(rigs.Missing, match=r"21\.11\.9 has no --huge-unlink=never"):
        works.restart(SimpleNamespace(reference=old, release="21.11.9"), "restart", 4, 1)
    said = judge(ROW, {}, why="librte_eal 21.11.9 has no --huge-unlink=never")

    assert said["note"] == "not measured: librte_eal 21.11.9 has no --huge-unlink=never"


ROW = Row("dyn-cpu", "dyn, cpu", "dynmem", None, "memory-cpu", "reference", 0.92, 0.88)
C = [0.10, 0.11, 0.12]


def found(target: list[float], pages: int = 512, over: list[float] = C) -> dict[Any, list[float]]:
    at = ("dynmem", pages, "memory-cpu")
    return {(*at, "target"): target, (*at, "reference"): over}


def a_run(target: list[float], over: list[float] = C, **more: list[float]) -> dict[str, Any]:
    """What pytest-benchmark keeps, as far as it is looked at."""
    benchmarks = [
        {
            "extra_info": {"work": "dynmem", "pages": pages, "measure": measure, "role": role}
            | ({"stages_ms": {"pages": 20.0, "rest": 2.0}} if measure == "init-wall" else {}),
            "stats": {"data": data},
        }
        for measure in ("memory-cpu", "init-wall")
        for pages in (64, 128)
        for role, data in {"target": target, "reference": over, **more}.items()
    ]
    machine = {
        "target": "pyeal",
        "reference": "librte_eal 22.11.11",
        "kernel": "6.1",
        "cpus": 2,
        "numa_nodes": 1,
        "hugepages": {"2M": 128},
    }
    return {
        "machine_info": machine,
        "datetime": "2026-01-02T03:04",
        "commit_info": {"id": "0123"},
        "benchmarks": benchmarks,
        "rows": [judge(ROW, found(target, over=over))],
    }


def keep(storage: Path, number: int, run: dict[str, Any]) -> None:
    (storage / "machine").mkdir(parents=True, exist_ok=True)
    (storage / f"machine/{number:04}_id.json").write_text(json.dumps(run))


def arguments(**more: Any) -> argparse.Namespace:
    p = argparse.ArgumentParser()
    bench.arguments(p)
    args = p.parse_args([])
    for name, value in more.items():
        setattr(args, name, value)
    return args


def test_ratio_of_medians_decides_and_the_spread_is_by_round():
    said = judge(ROW, found([0.09, 0.22, 0.09]))

    assert said["value"] == pytest.approx(0.09 / 0.11) and said["verdict"] == "holds"
    assert (said["low"], said["high"]) == pytest.approx((0.825, 1.45))


def test_over_the_target_it_misses():
    assert judge(ROW, found(C))["verdict"] == "misses"


@pytest.mark.parametrize(("least", "word"), [(0.095, "not shown"), (0.0995, "misses")])
def test_a_miss_is_shown_when_three_quarters_of_the_rounds_miss(least, word):
    said = judge(ROW._replace(target=0.9), found([least, 0.1, 0.11], over=[0.11] * 3))

    assert said["value"] == pytest.approx(0.1 / 0.11)  # 0.91
    assert (said["verdict"], said["note"] != "") == (word, word != "misses")


def test_another_number_of_pages_than_promised_shows_nothing():
    said = judge(ROW._replace(pages=3072), found([0.01] * 3))

    assert (said["verdict"], said["note"]) == ("not shown", "of 3072 pages; here 512")


def test_few_pages_show_nothing_but_of_an_own_eal():
    assert judge(ROW, found(C, 64))["verdict"] == "not shown"
    assert judge(ROW, found(C, 64), own=True)["verdict"] == "holds"


def test_the_most_pages_count_where_none_are_named():
    said = judge(ROW, found(C, 64) | found([0.05] * 3, 256))

    assert said["pages"] == 256 and said["value"] == pytest.approx(0.05 / 0.11)


def test_a_difference_is_in_milliseconds():
    said = judge(ROW._replace(unit="ms", target=10), found([0.115] * 3))

    assert said["value"] == pytest.approx(5) and said["verdict"] == "holds"


def test_what_was_not_measured_is_not_shown():
    said = judge(ROW, {}, why="wanted a C compiler (gcc), found none")

    assert judge(ROW, {})["verdict"] == said["verdict"] == "not shown"
    assert said["note"] == "not measured: wanted a C compiler (gcc), found none"


def test_an_own_eal_is_to_be_no_slower_than_the_reference():
    said = judge(ROW, found([0.115] * 3), own=True)

    assert said["verdict"] == "holds" and said["target"] == 1.10


def test_what_not_even_the_kernel_can_is_not_shown():
    limit = {("dynmem", 512, "memory-cpu", "kernel"): [0.105] * 3}
    said = judge(ROW, found(C) | limit)

    assert said["verdict"] == "not shown" and said["here"] == pytest.approx(0.105 / 0.11)
    assert judge(ROW, found([0.09] * 3) | limit)["verdict"] == "holds"


def test_a_whole_start_is_held_to_what_its_pages_take():
    whole = {(*key[:2], "init-wall", key[3]): s for key, s in found(C).items()}
    said = judge(
        ROW._replace(measure="init-wall"),
        whole | {("dynmem", 512, "memory-wall", "kernel"): [0.105] * 3},
    )

    assert said["verdict"] == "not shown" and said["here"] == pytest.approx(0.105 / 0.11)


def test_a_process_is_held_to_its_interpreter_too():
    row = ROW._replace(measure="process-wall", target=0.5)
    whole = {(*key[:2], "process-wall", key[3]): s for key, s in found([0.1] * 3).items()}
    kernel = {("dynmem", 512, "memory-wall", "kernel"): [0.03] * 3}
    interpreter = {("import", 0, "process-wall", "interpreter"): [0.04] * 3}

    assert judge(row, whole | kernel)["verdict"] == "misses"
    said = judge(row, whole | kernel | interpreter)
    assert said["verdict"] == "not shown" and said["here"] == pytest.approx(0.07 / 0.11)


@pytest.mark.parametrize(("mine", "word"), [(0.0549, "not shown"), (0.0551, "misses")])
def test_what_comes_on_top_of_the_kernels_part_is_held_to(mine, word):
    """A target of 0.4 where the kernel alone takes 0.32 is one of 0.5 where that is 0.4."""
    row = ROW._replace(target=0.4, floor=0.32)
    kernel = {("dynmem", 512, "memory-cpu", "kernel"): [0.044] * 3}

    assert judge(row, found([mine] * 3) | kernel)["verdict"] == word
    assert judge(row._replace(floor=None), found([mine] * 3) | kernel)["verdict"] == "misses"


@pytest.mark.parametrize(("ms", "word"), [(9, "holds"), (19, "not shown"), (21, "misses")])
def test_milliseconds_of_an_interpreter_are_those_of_this_machine(ms, word):
    """It takes 15.4 ms here, twice what it took where the target of 10 ms was set."""
    at = "import", 0, "process-wall"
    mine = {(*at, "target"): [0.02 + ms / 1000] * 3, (*at, "bare"): [0.02] * 3}
    row = ROW._replace(work="import", measure="process-wall", over="bare", unit="ms", target=10)
    slow = {(*at, "interpreter"): [0.0154] * 3}

    assert judge(row, mine | slow)["verdict"] == word
    assert judge(row, mine)["verdict"] == ("holds" if ms == 9 else "misses")


@pytest.mark.parametrize(
    ("mine", "word"), [(0.044, "holds"), (0.069, "not shown"), (0.071, "misses")]
)
def test_what_the_reference_waits_for_is_no_longer_on_a_slow_machine(mine, word):
    """Of its 110 ms it waits for 50: where CPUs take half the time it takes 80, and may have 35."""
    row = ROW._replace(measure="memory-wall", target=0.44)
    at = "dynmem", 512, "memory-wall"
    of = {(*at, "target"): [mine] * 3, (*at, "reference"): [0.11] * 3}
    idle = {
        (*at[:2], waits_of(at[2]), role): [s] * 3
        for role, s in (("target", 0.0), ("reference", 0.05))
    }
    slow = {("import", 0, "process-wall", "interpreter"): [0.0154] * 3}
    said = judge(row, of | idle | slow)

    assert said["verdict"] == word
    assert word != "not shown" or "waits 50 ms here and there: 0.43" in said["note"]
    for fewer in (of | slow, of | idle):  # where that is not known it is not guessed
        assert judge(row, fewer)["verdict"] == ("holds" if word == "holds" else "misses")
    for hold in (0.5, 0.7):  # a faster machine is not held against anybody
        fast = {key: [0.0154 * hold / 2] * 3 for key in slow}
        assert judge(row, of | idle | fast)["verdict"] == ("holds" if word == "holds" else "misses")


def test_ids_of_rows_are_single():
    assert len({r.id for r in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("now", "word"), [(0.115, "misses"), (0.105, "holds")])
def test_a_base_of_the_same_run_is_compared_directly(now, word):
    run = a_run([now, 0.5], over=[0.1, 0.1], base=[0.1, 0.3])
    done = {
        (c["pages"], c["measure"]): c["verdict"]
        for c in bench._compare(run, arguments(against="main~1"))
    }

    assert done[64, "memory-cpu"] == word
    assert done[64, "init-wall"] == ("holds" if word == "holds" else "not shown")  # no gate


def test_a_kept_run_is_compared_by_its_own_reference(tmp_path):
    """The machine is half as fast now: the code is not at fault."""
    keep(tmp_path, 1, a_run([0.08] * 3))
    same = a_run([0.16] * 3, over=[2 * c for c in C])
    slower = a_run([0.20] * 3, over=[2 * c for c in C])
    args = arguments(against="0001", storage=str(tmp_path))

    assert {c["verdict"] for c in bench._compare(same, args)} == {"holds"}
    assert "misses" in {c["verdict"] for c in bench._compare(slower, args)}


def test_kept_runs_are_shown_again_and_drawn(tmp_path, capsys):
    for n in (1, 2):
        keep(tmp_path, n, a_run([0.09] * 3))
    page = tmp_path / "page.html"
    args = arguments(show=True, storage=str(tmp_path), page=str(page))

    assert bench.run(args) == 0
    said = capsys.readouterr().out
    assert "pyeal beside librte_eal 22.11.11" in said and "dyn, cpu" in said and "0.82" in said
    text = page.read_text()
    assert text.count("<svg") == 1 + 2 + 1  # stages, two measures over pages, one row's history
    assert "%" + "ROWS%" not in text and "src=" not in text


def test_nothing_kept_is_said(tmp_path, capsys):
    assert bench.run(arguments(show=True, storage=str(tmp_path))) == 2
    assert "no run is kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"only": "restart,restart-cpu"}, r"--only: dynmem, .* wanted, restart-cpu found"),
        ({"pages": "64,many"}, r"--pages: numbers of pages wanted, as 256,1024; 64,many found"),
        ({"pages": "0"}, r"--pages: .* 0 found"),
    ],
)
def test_what_is_no_work_and_no_number_is_named(tmp_path, capsys, wrong, said):
    args = arguments(no_gates=True, storage=str(tmp_path), **wrong)

    assert bench.run(args) == 2
    assert re.fullmatch(f"pyeal bench: {said}\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{}")

    with pytest.raises(bench.Broken, match="is no run"):
        bench._compare(a_run(C), arguments(against=str(tmp_path / "x.json")))


def test_stages_are_drawn_for_both():
    run = a_run(C)

    assert bench_page.stages(run).count("<title>") == 4
    assert bench_page.picture(run).startswith("<svg xmlns=")


def test_history_has_a_line_for_each_machine():
    """A machine with a name, a run from before names were stored, and the first again."""
    runs = [a_run([0.08] * 3), a_run([0.04] * 3), a_run([0.09] * 3)]
    for run, more in zip(runs, [{"host": "a<b"}, {"node": "old"}, {"host": "a<b"}], strict=True):
        run["machine_info"] |= more
    drawn, alone = bench_page._history(runs), bench_page._history(runs[::2])

    assert drawn.count("<polyline") == 2
    assert "a&lt;b, 2 CPUs" in drawn and "old, 2 CPUs" in drawn
    assert alone.count("<polyline") == 1 and "CPUs" not in alone


@needs(root=True)
def test_a_run_from_end_to_end_has_what_other_tools_read(tmp_path, capsys):
    """github-action-benchmark and Bencher's python_pytest adapter read the kept file as it is."""
    pytest.importorskip("pytest_benchmark")
    args = arguments(only="import", rounds=1, no_gates=True, json=True, storage=str(tmp_path))
    code = bench.run(args)
    out, err = capsys.readouterr()
    if "wanted" in err or "nothing can be measured here" in err:
        pytest.skip(err)

    assert code == 0, err
    said = json.loads(out)
    assert said["schema"] == "pyeal.bench/1" and said["rows"][0]["id"] == "import"
    kept = json.loads(next(tmp_path.glob("*/0001_*.json")).read_text())
    assert isinstance(kept["machine_info"], dict) and isinstance(kept["commit_info"], dict)
    assert not [k for k in kept["machine_info"]["cpu"] if k.startswith("hz_actual")]
    for b in kept["benchmarks"]:
        assert b["fullname"].startswith("test_costs.py::test_cost[import-")
        stats = b["stats"]
        assert all(isinstance(stats[k], (int, float)) for k in "mean median stddev iqr ops".split())
