"""ci/words: where prose is read, and which words it finds there."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

CHECKOUT = next((d for d in Path(__file__).parents if (d / "ci/words").exists()), None)
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="wanted a checkout, found the suite alone")


@pytest.fixture(scope="module")
def words():
    loader = SourceFileLoader("words", f"{CHECKOUT}/ci/words")
    module = module_from_spec(spec_from_loader("words", loader))
    loader.exec_module(module)
    return module


PLACES = {  # a file, and what is in it; the word is always on line 2
    "markdown": ("docs/a.md", "# Title\nwhoever reads this\n"),
    "two-lines": ("docs/a.md", "# Title\nit waits for\never and a day\n"),
    "toml": ("conformance/a.toml", "[a]\nwhy = 'whoever made it'\n"),
    "docstring": ("conformance/a.py", 'def f():\n    """Give it to whoever asks."""\n'),
    "comment": ("conformance/a.py", "x = 1\n# whoever asks\n"),
    "help": ("conformance/a.py", "p = add\np(help='what whoever asks for is')\n"),
    "message": ("pyeal/a.py", "x = 1\nfail('not for whoever asks')\n"),
    "shell": ("ci/a", "#!/bin/sh\necho 1 # for whoever asks\n"),
}


@pytest.mark.parametrize(("path", "text"), PLACES.values(), ids=PLACES)
def test_a_word_is_found_where_people_read(words, path, text):
    assert [line for line, _ in words.faults(path, text)] == [2]


CODE = {
    "a name": ("conformance/a.py", "whoever = 1\n"),
    "data of a test": ("conformance/a.py", "f('the log says whoever is there')\n"),
    "a user": ("docs/a.md", "It runs as nobody, and as root.\n"),
    "a part of a word": ("docs/a.md", "He amended the mutex.\n"),
}


@pytest.mark.parametrize(("path", "text"), CODE.values(), ids=CODE)
def test_what_is_no_prose_is_left_alone(words, path, text):
    assert words.faults(path, text) == {}


def test_a_fault_names_better_words(words, capsys):
    assert list(words.faults("a.md", "pages on loan\n").items()) == [((1, "on loan"), "leased")]
