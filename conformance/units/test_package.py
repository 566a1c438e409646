"""The package: what it says of itself, and that what is tested is what was installed."""

from __future__ import annotations

import ast
import re
from importlib import metadata
from pathlib import Path

import conformance
import pyeal

NAME = "pyeal-dpdk"  # another project owns "pyeal" on PyPI
FACTS = metadata.metadata(NAME)
FILES = {str(f) for f in metadata.files(NAME) or ()}


def test_core_needs_no_other_package() -> None:
    needs = metadata.requires(NAME) or []

    assert [n for n in needs if "extra ==" not in n] == []
    assert set(FACTS.get_all("Provides-Extra") or ()) >= {"tools", "conformance", "bench"}
    assert [n for n in needs if re.search(r"extra == .tools.", n)] == []


def test_no_text_installs_another_project():
    """`pip install pyeal` would bring the package of PyPI that has this name."""
    package = Path(pyeal.__file__).parent
    texts = {f: f.read_text("utf-8") for f in package.rglob("*.py") if f.is_file()}
    wrong = [f for f, t in texts.items() if re.search(r"pipx? install '?\"?pyeal\b(?!-dpdk)", t)]

    assert [f for f in wrong if f.name != Path(__file__).name] == []


def test_version_has_one_place() -> None:
    assert metadata.version(NAME) == pyeal.__version__


def test_licence_is_named_and_there() -> None:
    assert FACTS["License-Expression"] == "BSD-3-Clause"
    assert any(f.endswith("licenses/LICENSE") for f in FILES)


def test_types_are_for_others_too() -> None:
    assert "pyeal/py.typed" in FILES


def test_nothing_of_ours_lies_beside_pyeal() -> None:
    tops = {f.partition("/")[0] for f in FILES if not f.startswith("..")}

    assert tops == {"pyeal", f"pyeal_dpdk-{pyeal.__version__}.dist-info"}


def test_suite_and_pyeal_are_those_of_the_wheel() -> None:
    """The checkout is out of reach: whatever a wheel lacks, a test here has to miss."""
    package = Path(pyeal.__file__).parent

    assert "site-packages" in package.parts
    assert conformance.SUITE.parent == package / "suite"


def test_what_a_peer_runs_is_python_3_9() -> None:
    """Targets run under the Python of the library's own system: Debian 11 has 3.9."""
    package, suite = Path(pyeal.__file__).parent, conformance.SUITE
    targets = [suite / "targets" / f for f in ("__init__.py", "librte_eal.py", "forkserver.py")]

    for file in (package / "__init__.py", package / "serve.py", suite / "__init__.py", *targets):
        ast.parse(file.read_text(), str(file), feature_version=(3, 9))


def test_imports_by_name_or_path_are_in_few_places() -> None:
    """Everywhere else import-linter sees who imports whom."""
    package, suite = Path(pyeal.__file__).parent, conformance.SUITE
    files = [f for f in package.rglob("*.py") if "suite" not in f.relative_to(package).parts]
    files += [f for f in suite.rglob("*.py") if "units" not in f.relative_to(suite).parts]
    hidden = r"sys\.path\b|\bimport_module\b|spec_from_file_location|\brunpy\b|\b__import__\("

    assert {
        str(f.relative_to(f.parents[1])) for f in files if re.search(hidden, f.read_text())
    } == {
        "pyeal/__init__.py",  # public names, imported when they are asked for
        "tools/commands.py",  # a short command does not pay for the others
        "tools/plan.py",  # starts pyeal by itself, without the folder that it is called in
        "timing/eal.py",  # programs that are timed in an isolated interpreter
        "timing/works.py",
    }
