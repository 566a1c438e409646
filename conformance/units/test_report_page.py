"""The page in headless Chromium: nothing overflows, no script fails, filters and rows work."""

import pytest

from conformance.harness import catalogue
from conformance.runner.report import merge, pages
from conformance.units import chromium, fleet

pytestmark = pytest.mark.skipif(not chromium.FOUND, reason="wanted chromium, found none")
WIDE = "document.documentElement.scrollWidth - innerWidth"
OPEN = "document.querySelectorAll('details').forEach(e => e.open = true)"
ROWS = "[...document.querySelectorAll('.req:not([hidden])')].map(e => e.id)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    c = chromium.Chromium(tmp_path_factory.mktemp("chromium"))
    yield c
    c.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> page: one host with 20 targets, a fleet, the catalogue with nothing run."""
    d, rows = tmp_path_factory.mktemp("pages"), catalogue.rows()
    ids = list(rows)
    bad = {
        ids[0]: ("failed", "assert 'a_long_name_without_any_space' * 9 == " + "x" * 300),
        ids[1]: ("deviating", f"see {ids[2]}, `code` and <b>no markup</b>"),
        ids[2]: ("skipped", "wanted 8 free 2M pages, found 0"),
    }
    releases = [f"2{i}.11" for i in range(20)]
    runs = (
        fleet.run("h", ids, bad if i % 3 else {}, target=f"librte_eal:{r}", release=f"{r}.1")
        for i, r in enumerate(releases)
    )
    many = merge.merge([fleet.write(d / "many.jsonl", *runs)])
    hosts = merge.merge(fleet.fleet(d / "fleet", 60, ids[:20]))
    out = {}
    for name, m, title in (
        ("targets", many, "EAL conformance"),
        ("hosts", hosts, "A fleet"),
        ("catalogue", merge.Matrix(), "The catalogue"),
    ):
        out[name] = d / f"{name}.html"
        found = pages.data(m, rows, {}, title, whole=not m.runs)
        out[name].write_text(pages.page(found, "plain"))
    return out


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["targets", "hosts", "catalogue"])
def test_it_fits_and_no_script_fails(browser, made, name, width):
    browser.open(made[name], width, dark=width == 360)
    closed = browser.js(WIDE)
    browser.js(OPEN)

    assert browser.js("document.querySelectorAll('.req[open] .body').length") > 10
    assert (closed, browser.js(WIDE)) == (0, 0)
    assert browser.faults == []


def test_rows_are_found_by_words_verdict_and_target(browser, made):
    ids = list(catalogue.rows())
    browser.open(made["targets"], 1280)
    assert len(browser.js(ROWS)) == len(ids)

    browser.key("/")
    browser.js(f"document.execCommand('insertText', false, '{ids[5].lower()}')")
    browser.wait(f"{ROWS}.length < {len(ids)}")
    assert ids[5] in browser.js(ROWS)
    browser.key("Escape")
    browser.js("document.querySelector('#verdicts .failed').click()")
    assert browser.js(ROWS) == ids[:1]
    first = "document.forms[0].column.value = 0, document.forms[0].column.onchange()"
    browser.js(first)  # where it passed
    assert browser.js(ROWS) == []


def test_a_row_opens_by_keyboard_and_shows_its_evidence(browser, made):
    ids = list(catalogue.rows())
    browser.open(made["targets"], 1280)
    browser.js(f"document.querySelector('#{ids[0]} summary').focus()")
    browser.key("ArrowDown")
    browser.key("Enter")
    browser.wait(f"document.querySelector('#{ids[1]} .body') !== null")
    text = browser.js(f"document.getElementById('{ids[1]}').textContent")

    assert f"saw 0 pages of {ids[1]}" in text
    assert "<b>no markup</b>" in text
    assert browser.js(f"document.querySelector('#{ids[1]} .body a[href=\"#{ids[2]}\"]') !== null")
    assert browser.js("location.hash") == f"#{ids[1]}"


def test_a_host_by_itself(browser, made):
    """node0010 could not run the first row, all others could."""
    browser.open(made["hosts"], 1280)
    cell = "document.querySelector('.req .cell').className"
    assert browser.js(cell) == "cell passed"
    browser.js("document.forms[0].host.value = 10, document.forms[0].host.onchange()")

    assert browser.js(cell) == "cell skipped"


def test_pictures_of_the_catalogue_are_in_it(browser, made):
    id, test = next((i, t) for i, t in pages.tests().items() if t.picture)
    browser.open(made["catalogue"], 1280)
    browser.js(OPEN)

    shown = browser.js(f"document.querySelector('#{id} .picture').textContent")
    assert shown == test.picture
