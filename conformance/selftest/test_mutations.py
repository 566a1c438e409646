"""The faults of mutations.toml: all are up to date, each row of must has one, and one of each
family is found again here. The others are replayed by ci/mutations, which writes docs/mutations.md.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from conformance import SUITE
from conformance.campaigns.mutations import sweep
from conformance.campaigns.mutations.sweep import CAUGHT, COULD_NOT, SURVIVED, Mutation
from conformance.conftest import Facts
from conformance.harness import catalogue, child

ALL, LIES = sweep.load(), sweep.load("lies")
MUST = {id for id, row in catalogue.rows().items() if row.level == "must"}
DOCS = next((d / "docs" for d in (SUITE.parent, Path.cwd()) if (d / "docs").exists()), None)
FIND = "FBA-017", "pyeal/fbarray.py"  # a test that needs neither root nor pages


def test_every_mutation_applies():
    stale = [fault for m in ALL if (fault := m.fault())]
    unknown = sorted({m.id for m in ALL} - set(sweep.tests()))

    assert (stale, unknown) == ([], [])


def test_no_mutation_stands_twice():
    assert len(set(ALL)) == len(ALL)


def test_every_must_row_has_a_fault_or_a_reason():
    families = {row.family for row in catalogue.rows().values()}

    assert {m.id.partition("-")[0] for m in ALL} == families
    assert MUST - {m.id for m in ALL} == set(sweep.unshown())


@pytest.mark.parametrize("id", sweep.unshown())
def test_a_row_without_a_fault_is_one_that_pyeal_deviates_from(id):
    """Strictly, in each of its tests and in every release: pyeal itself is what the test finds."""
    found = [d for d in catalogue.deviations() if d.id == id]

    pyeal = Facts("pyeal", "", frozenset())
    assert any(d.covers(pyeal, "pyeal") and d.params == "*" for d in found if not d.releases)


@pytest.mark.skipif(not DOCS, reason="wanted a checkout, found the suite alone")
def test_table_shows_every_fault_caught():
    """ci/mutations --changed adds what is new."""
    table = sweep.Table(DOCS)
    seen = {m: row["verdict"] for m, row in table.rows.items()}

    assert {str(m): seen.get(m, "not replayed") for m in ALL} == dict.fromkeys(
        map(str, ALL), CAUGHT
    )
    assert (DOCS / "mutations.md").read_text() == table.page()


@pytest.mark.timeout(600)
def test_a_fault_of_each_family_is_found():
    """And a lie, which is told by a process in between."""
    first = {m.id.partition("-")[0]: m for m in reversed(ALL) if not m.lie}
    lie = next(m for m in ALL if m.lie and m.target == "pyeal")
    found = {m: answer for m, *answer in sweep.replayed([*first.values(), lie], jobs=2)}
    # what this machine lacks: root, strace
    lacks = [
        m for m, (v, _, why) in found.items() if (v, why[:16]) == (COULD_NOT, "Skipped: wanted ")
    ]
    found = {m: answer for m, answer in found.items() if m not in lacks}

    assert len(found) > 3
    assert {m: answer for m, answer in found.items() if answer[0] != CAUGHT} == {}


@pytest.mark.timeout(600)
def test_what_is_not_caught_is_told():
    """No fault at all; two that no target starts with; a target that is wrong without the fault."""
    text = "def biggest("
    wrong = f"cmd:{sys.executable} {sweep.SELFTEST}/lying_target.py fbarray:ret:1 -- "
    wrong += f"{sys.executable} -m pyeal.agent"
    none, broken, ends = (Mutation(*FIND, text, new + text) for new in ("", "]", "1 / 0\n    "))
    both = Mutation(FIND[0], lie="fbarray:ret:1", target=wrong)
    found = {m: answer for m, *answer in sweep.replayed([none, broken, ends, both])}

    assert {m: verdict for m, (verdict, *_) in found.items()} == {
        none: SURVIVED,
        broken: COULD_NOT,
        ends: COULD_NOT,
        both: COULD_NOT,
    }
    assert "SyntaxError" in found[broken][2]
    assert "hello: pyeal does not start" in found[ends][2]
    assert found[both][2].startswith("without the fault: ")


@pytest.mark.skipif(not shutil.which("gcc"), reason="wanted gcc, found none")
@pytest.mark.timeout(600)
def test_a_changed_call_of_librte_eal_is_found():
    """The directory of a primary that makes it for all to read, without pages."""
    lie = next(m for m in LIES if m.id == "CFG-001")
    ((_, verdict, _, said),) = sweep.replayed([lie])
    if child.NO_LIBRARY in said or said.startswith("Skipped: wanted "):
        pytest.skip(said)

    assert verdict == CAUGHT


@pytest.mark.skipif(not DOCS, reason="wanted a checkout, found the suite alone")
def test_table_shows_every_changed_call_caught():
    """ci/mutations --target librte_eal --changed adds what is new."""
    table = sweep.Table(DOCS, "lies")
    seen = {m: row["verdict"] for m, row in table.rows.items()}

    assert len(set(LIES)) == len(LIES)
    assert {str(m): seen.get(m, "not replayed") for m in LIES} == dict.fromkeys(
        map(str, LIES), CAUGHT
    )
    assert (DOCS / "lies.md").read_text() == table.page()


def test_changed_is_what_was_not_caught_with_these_files(tmp_path):
    m = ALL[0]
    table = sweep.Table(tmp_path)
    before = table.holds(m)
    table.put(m, SURVIVED, "", "")
    survived = table.holds(m)
    table.put(m, CAUGHT, "test", "said")
    table.write()
    (row,) = json.loads((tmp_path / "mutations.json").read_text())
    again = sweep.Table(tmp_path)
    caught = again.holds(m)
    again.rows[m]["state"] = "another"

    assert (before, survived, caught, again.holds(m)) == (False, False, True, False)
    assert row["mutation"]["id"] == m.id
    assert "**1 caught, 0 survived**" in (tmp_path / "mutations.md").read_text()
