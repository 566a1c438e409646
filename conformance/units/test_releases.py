"""The table of releases: lines, minor releases, version words."""

import pytest

from conformance.harness import catalogue, decode
from pyeal import heap, releases, runtime
from pyeal.look.fake_host import FakeHost


def test_a_release_is_found_by_name_line_and_word():
    for name, r in releases.RELEASES.items():
        assert releases.get(name) is releases.get(r.line) is r
        assert releases.nearest(r.word).name == name
    assert releases.get("22.11.11").word == 0x160B0B63


@pytest.mark.parametrize("name", decode.layouts() | releases.RELEASES)
def test_the_table_says_what_builds_of_that_release_say(name):
    r, abi = releases.get(name), decode.layouts()[name]
    major, minor = r.abi.split(".") if "." in r.abi else (r.abi, "0")

    assert r.name == name
    assert f"{major}.{minor}" == abi["ABI_VERSION"]
    assert r.word == abi["constants"]["RTE_VERSION"] == abi["RTE_VERSION_fields"]["value"]
    wire = abi["wire"]["mp_socket"]
    assert (r.message_size, r.message_fds) == (wire["datagram_len"], wire["max_fds"])


def test_no_requirement_is_of_the_newest_release_alone():
    """Its rows hold until one ends them: ">=26.07", so that the next release has them as well."""
    newest = list(releases.RELEASES.values())[-1].line

    assert [r.id for r in catalogue.rows().values() if f"=={newest}" in r.releases] == []


@pytest.mark.parametrize(
    ("before", "since"),
    [("23.11.6", "23.11.7"), ("24.11.4", "24.11.5"), ("25.11.0", "25.11.1"), ("22.11.99", "26.07")],
)
def test_a_minor_release_lacks_what_came_after_it(before, since):
    """Shadow arrays got a time stamp in their names as a fix, line by line."""
    old, new = releases.get(before), releases.get(since)

    assert (old.shadow_suffix, new.shadow_suffix) == ("{pid}", "{pid}_{tsc:x}")
    assert old.family == releases.get(old.line).family


@pytest.mark.parametrize("name", ["19.11", "22.12", "22.11.x", "22.11.1.1", "26.07-rcx", ""])
def test_an_unknown_release_names_the_known_ones(name):
    with pytest.raises(ValueError, match=r"not known; known: 20\.11\.10, .*26\.07; between"):
        releases.get(name)


@pytest.mark.parametrize("name", releases.BETWEEN)
def test_a_release_between_two_lines_is_known_by_name_and_word(name):
    r = releases.get(name)

    assert (r.name, r.line, r.note) == (name, name, "")
    assert releases.nearest(r.word).name == name


def test_a_release_between_two_lines_has_what_came_until_then():
    """23.03 alone has free list 0 for 256 bytes, and the open rule above it."""
    lists = [releases.get(n).free_list_rule for n in ("22.11", "23.03", "23.07", "23.11")]
    argparse = [n for n in releases.BETWEEN if releases.get(n).arguments == "argparse"]

    assert lists == ["closed", "open above 256", "open", "open"]
    assert argparse == ["26.03"]


@pytest.mark.parametrize(
    ("name", "lists"),
    [("22.11", [0, 0, 1, 1, 2]), ("23.03", [0, 0, 1, 2, 2]), ("23.07", [0, 1, 1, 2, 2])],
)
def test_free_lists_of_sizes_at_a_border(name, lists):
    """Of 192, 256, 320, 1024 and 1088 bytes. malloc_elem.c: malloc_elem_free_list_index"""
    h = object.__new__(heap.Heap)
    h.rule = releases.get(name).free_list_rule

    assert [h.free_list(size) for size in (192, 256, 320, 1024, 1088)] == lists


def test_the_first_release_of_a_line_lacks_its_fixes():
    first = releases.nearest(releases.word_of("22.11.0"))

    assert (first.name, first.zeroes_released) == ("22.11.0", False)
    assert releases.get("22.11").zeroes_released


@pytest.mark.parametrize(
    ("name", "read_as", "family"),
    [
        ("26.11.0-rc0", "26.07", "C"),
        ("26.07.0-rc4", "26.07", "C"),
        ("23.11.0-rc1", "23.11", "B"),
        ("22.11.12-rc1", "22.11.12", "A"),
        ("27.11", "26.07", "C"),
        ("22.09", "22.07", "A"),
    ],
)
def test_a_release_that_is_not_known_is_read_as_the_nearest_older_one(name, read_as, family):
    r = releases.nearest(releases.word_of(name))

    assert (r.name, r.read_as, r.family) == (name, read_as, family)
    assert r.note == f"{name}: not known, read as {read_as}"


@pytest.mark.parametrize("word", [0x130B0063, 0x160D0063, 0x16000063, 0x160B00FF, 0])
def test_a_word_that_is_no_version_is_refused(word):
    with pytest.raises(ValueError, match=r"version word 0x\w+ \(.*\) is of no release since 20"):
        releases.nearest(word)


def test_a_block_says_only_what_differs_from_the_one_that_it_is_like():
    old = {"abi": "1", "wire": {"fds": 8, "length": 3}, "members": [1, 2]}
    new = decode._over(old, {"like": "x", "wire": {"fds": 9}, "members": [3]})

    assert new == {"like": "x", "abi": "1", "wire": {"fds": 9, "length": 3}, "members": [3]}
    assert old["wire"]["fds"] == 8


@pytest.mark.parametrize(("name", "hz"), [("24.07", 2_600_000_000), ("24.11", 2_597_700_000)])
def test_the_clock_is_rounded_as_the_release_does(name, hz, tmp_path):
    """linux/eal_timer.c: get_tsc_freq; to 10 MHz, since 24.11 to 100 kHz."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("bogomips\t: 5195.42\n")

    step, host = releases.get(name).clock_step, FakeHost(tmp_path)
    assert runtime.tsc_hz(step, host, "x86_64") == hz


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "hz"),
    [
        ("aarch64", "processor\t: 0\nBogoMIPS\t: 125.00\n", 62_500_000),
        ("aarch64", "BogoMIPS\t: 38.40\n", 19_200_000),
        (
            "ppc64le",
            "processor\t: 0\n" + "cpu\t: POWER9\n" * 900 + "timebase\t: 512000000\n",
            512_000_000,
        ),
        ("riscv64", "processor\t: 0\nisa\t: rv64imafdc\n", 10_000_000),
        ("loongarch64", "BogoMIPS\t\t: 200.00\n", 100_000_000),
        ("aarch64", "processor\t: 0\n", 1_000_000_000),
    ],
    ids=["arm64", "arm64-19.2", "ppc64le", "riscv64", "loongarch64", "unknown"],
)
def test_the_clock_of_other_architectures_is_not_rounded_to_a_release(
    machine, cpuinfo, hz, tmp_path, monkeypatch
):
    """get_tsc_freq_arch of each; riscv64 has 10 MHz in the device tree, in big-endian order."""
    tree = tmp_path / "proc/device-tree/cpus"
    tree.mkdir(parents=True)
    (tree / "timebase-frequency").write_bytes((10_000_000).to_bytes(4, "big"))
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(runtime.libc, "counter_hz", lambda: 0)

    assert runtime.tsc_hz(10_000_000, FakeHost(tmp_path), machine) == hz
