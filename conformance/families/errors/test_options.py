"""ERR: arguments that are refused, and what is said of them."""

import errno
import re

import pytest

from conformance import MODES, modes, needs, requirement
from conformance.harness.catalogue import holds


def said(e):
    return e.log + e.text


@requirement("ERR-001")
@needs(pages={"2M": 2})
@pytest.mark.parametrize(
    ("args", "mode", "no"),
    [
        pytest.param(["--socket-mem", "x"], "dynmem", errno.EINVAL, id="options"),
        pytest.param(["--huge-dir", "/run"], "dynmem", errno.EACCES, id="hugepages"),
        pytest.param([], "no-huge", errno.ENODEV, id="memzone"),
        pytest.param(["-m", "64"], "dynmem", errno.ENOMEM, id="memory"),
    ],
)
def test_each_stage_has_its_errno(start, flocked, args, mode, no, evidence):
    """EINVAL options, EACCES hugepages, ENODEV memzones, ENOMEM memory."""
    if no == errno.ENODEV:
        start(mode=mode).kill()
        flocked("fbarray_memzone")
    e = start(*args, mode=mode, init=False).refused()
    evidence(f"{e.text} ({errno.errorcode[e.errno]})")

    assert e.errno == no


@requirement("ERR-002")
@modes("no-huge")
def test_what_is_fatal_is_said_on_stderr(start, evidence):
    """Twice up to 23.11, on stderr and in the log; once from 24.11 on."""
    eal = start("--iova-mode=x", init=False)
    eal.refused()
    old = holds("<25.11", eal.release)
    words = "Invalid 'command line' arguments." if old else "Error parsing command line arguments."
    lines = eal.logged(words)
    evidence(lines)

    text = f"EAL: {{}}{words}"
    twice = holds("<=23.11", eal.release)
    assert sorted(lines) == [text.format(x) for x in (["FATAL: ", ""] if twice else [""])]


@requirement("ERR-003")
@pytest.mark.parametrize("mode", MODES)
def test_m_and_socket_mem_exclude_each_other(start, mode, evidence):
    """-m 2 --socket-mem 2: EINVAL, and both are named."""
    e = start("-m", "2", "--socket-mem", "2", mode=mode, init=False).refused()
    evidence(e.text)

    assert e.errno == errno.EINVAL
    assert re.search("(--socket-mem|numa-mem).* at the same time", said(e))


@requirement("ERR-004")
@pytest.mark.parametrize("value", ["", ",", "64,", ",64", "x", "8x", "64,,64"])
def test_socket_mem_wants_numbers(start, value, evidence):
    """Nothing, commas around nothing, letters: EINVAL."""
    e = start(f"--socket-mem={value}", init=False).refused()
    evidence(e.text)

    assert e.errno == errno.EINVAL
    assert re.search("(socket|numa)-mem", said(e))


@requirement("ERR-005")
@pytest.mark.parametrize("with_", ["--huge-unlink=never", "--legacy-mem"])
def test_in_memory_excludes_files_and_legacy(start, with_, evidence):
    """Neither kept files nor legacy memory."""
    eal = start("--in-memory", with_, init=False)
    if with_ == "--huge-unlink=never" and holds("<22.03", eal.release):
        pytest.skip(f"--huge-unlink=never wanted, {eal.release} found")
    e = eal.refused()
    evidence(e.text)

    assert e.errno == errno.EINVAL
    assert "in-memory" in said(e)


@requirement("ERR-006")
@needs(pages={"2M": 3})
@modes("single-file")
def test_one_file_for_all_segments_is_not_unlinked_first(start, evidence):
    """--huge-unlink=always is refused, never is not."""
    e = start("-m", "2", "--huge-unlink", init=False).refused()
    evidence(e.text)

    assert e.errno == errno.EINVAL
    assert "single-file-segments" in said(e)
    assert "huge-unlink" in said(e)
    eal = start("-m", "2", init=False)
    if holds(">=22.03,<25.11", eal.release):
        assert eal.init("--huge-unlink=never").malloc(64).va


@requirement("ERR-007")
@modes("no-huge")
@pytest.mark.parametrize("prefix", ["", "a%b", "a/b"])
def test_a_file_prefix_is_part_of_a_name(start, prefix, evidence):
    """Nothing and % are refused as an option, / when the directory is to be made."""
    e = start("--file-prefix", prefix, init=False).refused()
    evidence(e.text)

    assert e.errno == errno.EINVAL
    if "/" not in prefix:
        assert re.search("file[-_ ]prefix", said(e))


@requirement("ERR-008")
@needs(pages={"2M": 2})
@modes("dynmem", "legacy")
@pytest.mark.parametrize(
    ("path", "no"),
    [
        pytest.param("", errno.EINVAL, id="empty"),
        pytest.param("/run/nowhere", errno.EACCES, id="missing"),
        pytest.param("/run", errno.EACCES, id="tmpfs"),
    ],
)
def test_huge_dir_is_a_mounted_hugetlbfs(start, path, no, evidence):
    """Nothing is no option; what is not there, or no hugetlbfs, leaves no page."""
    e = start("-m", "2", f"--huge-dir={path}", init=False).refused()
    evidence(e.text)

    assert e.errno == no
    assert path or re.search("huge-dir|hugepage dir", said(e))


@requirement("ERR-009")
@modes("no-huge")
def test_proc_type_is_one_of_three(start, evidence):
    """--proc-type=bogus: EINVAL."""
    e = start("--proc-type=bogus", init=False).refused()
    evidence(e.text)

    assert e.errno == errno.EINVAL
    assert "nvalid process type" in said(e) or "--proc-type" in said(e)


@requirement("ERR-032")
@modes("no-huge")
@pytest.mark.parametrize("args", [["-r", "0"], ["-r", "17"], ["-n", "0"]], ids="-".join)
def test_channels_and_ranks_have_bounds(start, args, evidence):
    """-r 1 to 16, -n at least 1."""
    e = start(*args, init=False).refused()
    evidence(e.text)

    assert e.errno == errno.EINVAL
    assert {"-r": "rank", "-n": "channel"}[args[0]] in said(e)


@requirement("ERR-021")
@modes("no-huge")
def test_no_huge_has_no_physical_addresses(start, evidence):
    """--no-huge --iova-mode=pa: EINVAL."""
    e = start("--iova-mode=pa", init=False).refused()
    evidence(e.text)

    assert e.errno == errno.EINVAL


@requirement("ERR-023")
@modes("no-huge")
@pytest.mark.parametrize("what", ["name", "directory"])
def test_a_long_prefix_cuts_the_name_of_the_socket(start, what, evidence):
    """A socket's path has 107 characters: the rest is lost without a word.

    name:       /var/run/dpdk/ppp...p/mp_soc|ket
    directory:  /var/run/dpdk/ppp...p|pppp/mp_socket      since 26.03 EAL refuses it
    """
    short = start(prefix="p")
    base = len(short.runtime_dir) - 1
    short.close()
    eal = start(prefix="p" * ({"name": 104, "directory": 112}[what] - base), init=False)
    if what == "directory" and holds(">=26.03", eal.release):
        e = eal.refused()
        evidence(e.text)
        return
    eal.init()
    whole = f"{eal.runtime_dir}/mp_socket"
    at = eal.box.path(whole[:107])
    evidence(f"{len(whole)} characters, found {eal.run_files('mp*')}")

    assert len(whole) > 107
    assert at.is_socket()
    assert eal.run_files("mp*") == ([at.name] if what == "name" else [])


@requirement("ERR-024")
@needs(pages={"2M": 3})
@pytest.mark.parametrize("first", ["succeeded", "options", "memory"])
def test_a_second_init_in_a_process(start, first, evidence):
    """EALREADY after a start that succeeded or, up to 24.11, failed with memory; else it works."""
    eal = start(init=False)
    args = list(eal.args)
    if first == "succeeded":
        eal.init("-m", "2")
    else:
        eal.refused(*{"options": ["--iova-mode=x"], "memory": ["-m", "64"]}[first])
    eal.args = args
    again = first == "options" or (first == "memory" and holds(">=25.11", eal.release))
    if again:
        eal.init("-m", "2", within=5)
        evidence("another try is permitted")
        return
    e = eal.refused("-m", "2")
    evidence(e.text)

    assert e.errno == errno.EALREADY
