"""Check that the documentation is true: its commands run, its pictures are those of the code."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import hooks
import make
import pytest

from conformance.units.recorded import unpack
from conformance.units.test_tools_commands import LOOKS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"(?:<!-- (not run: [^>]+) -->\n)?^```sh\n(.*?)^```$", re.M | re.S)


def name(page):
    return str(page.relative_to(ROOT / "docs").with_suffix(""))


COMMANDS = [
    pytest.param(line, why, id=f"{name(page)}: {line}")
    for page in PAGES
    for why, block in BLOCK.findall(page.read_text())
    for line in block.splitlines()
]


@pytest.mark.parametrize(("line", "why"), COMMANDS)
def test_command(line, why):
    """Run a command as in the page, in the checkout: it succeeds.

    `pyeal stale` may find something that other processes of this machine left: 1.
    """
    if why:
        pytest.skip(why)
    if "librte_eal" in line and not list(Path("/usr/lib").glob("*/librte_eal.so.2?")):
        pytest.skip("wanted librte_eal, found none: apt-get install librte-eal23")
    if line.startswith("tox ") and not shutil.which("tox"):
        pytest.skip("wanted tox, found none: pip install tox tox-uv")
    done = subprocess.run(
        ["bash", "-ec", line],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        stdin=subprocess.DEVNULL,
    )
    good = (0, 1) if line.startswith("pyeal stale") else (0,)

    assert done.returncode in good, done.stdout + done.stderr


def test_what_the_pages_show_of_fixtures_is_made_of_them():
    stale = [p for p, text in make.pages() if (ROOT / "docs" / p).read_text() != text]

    assert stale == [], "docs/make.py makes them anew"


def test_each_rule_names_the_row_that_checks_it():
    text = (ROOT / "docs/rules.md").read_text()

    assert hooks.without_row(text) == []
    bad = hooks.without_row("# Rules\n\n- So it is [CFG-001]. And so.\n- As well [CFG-999].\n")
    assert bad == ["And so.", "As well [CFG-999]."]


@pytest.mark.parametrize("page", sorted((ROOT / "docs/zh").glob("*.md")), ids=name)
def test_translation_is_of_the_page_as_it_is_now(page):
    """Compare the digest in a translation's first line; a changed page is translated again."""
    first = page.read_text("utf-8").splitlines()[0]
    of, digest = re.fullmatch(r"<!-- translates (\S+) ([0-9a-f]{16}) -->", first).groups()
    now = hashlib.sha256((ROOT / "docs" / of).read_bytes()).hexdigest()[:16]

    assert digest == now, f"docs/{of} has changed: translate it again, and write {now}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_in_pages_are_there(page):
    """Look up `ci/...`, `pyeal/...py`, ...: a page must not name a file that was renamed."""
    named = re.findall(r"`((?:ci|pyeal|conformance|fixtures|docs)/[\w./-]+)", page.read_text())
    gone = [n for n in named if not (ROOT / n).exists() and not re.search(r"[A-Z]{4}|SEC", n)]

    assert gone == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_in_pages_are_there(page):
    """Look up `pyeal/eal.py: Eal` and `eal.py: Eal`: the file of pyeal/ must define the name."""
    named = re.findall(r"`([\w/]+\.py): ([\w.]+)`", page.read_text())
    gone = []
    for file, name in named:
        path = ROOT / file if (ROOT / file).exists() else ROOT / "pyeal" / file
        last = name.rpartition(".")[2]
        if not re.search(rf"^\s*(def|class) {last}\b|^{last}\b", path.read_text(), re.M):
            gone.append(f"{file}: {name}")

    assert gone == []


ELSEWHERE = {  # keys whose values have names that json.md leaves to others
    "config",
    "locks",
    "memzones",
    "heaps",
    "heap_info",
    "pools",
    "took",
    "keeps",
}
AS_ALSO = {"inspect": ["ps"], "map": ["ps", "inspect"], "stale": ["ps"], "explain": ["doctor"]}


def keys(said):
    """Yield all names in a document, at any depth."""
    for value in said if isinstance(said, list) else ():
        yield from keys(value)
    for key, value in said.items() if isinstance(said, dict) else ():
        yield key
        if key not in ELSEWHERE:
            yield from keys(value)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return unpack("22.11", "dynmem", tmp_path_factory.mktemp("recording"))


@pytest.mark.parametrize("name", LOOKS)
def test_every_key_of_json_is_described(name, recording):
    """Compare the keys that a command prints with json.md: no key is undocumented."""
    text = (ROOT / "docs/json.md").read_text()
    sections = {s.partition("\n")[0]: s for s in text.split("\n## ")[1:]}
    about = [
        next(s for title, s in sections.items() if f"pyeal.{n}/1" in title)
        for n in (name, *AS_ALSO.get(name, ()))
    ]
    args = [x.format(run=recording) for x in LOOKS[name]]
    done = subprocess.run(["pyeal", name, "--json", *args], capture_output=True, text=True)
    said = json.loads(done.stdout)

    assert set(keys(said)) - {"schema"} - set(re.findall(r"\w+", "".join(about))) == set()
