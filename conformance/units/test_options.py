"""EAL's arguments: what pyeal.options makes of them, and whether a real EAL agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from errno import EINVAL
from pathlib import Path

import pytest

from conformance import GB, MB
from pyeal import cparse, lcores, options, releases
from pyeal.errors import EalError
from pyeal.host import Host

ORACLE = Path(__file__).with_name("oracle.py")
M2, G1 = 2 * MB, GB

TOKEN = "f81d4fae-7dec-11d0-A765-00a0c91e6bf6"

# Arguments and what becomes of them in 22.11; a real librte_eal must accept them too.
ACCEPTED: list[tuple[list[str], dict[str, object]]] = [
    ([], {"memory": 0, "file_prefix": "rte", "proc_type": "primary",
          "unlink_existing": True, "unlink_before_mapping": False,
          "iova_mode": None, "socket_mem": None, "lcores": None, "ignored": []}),
    (["-m", "64"], {"memory": 64 * MB}),
    (["-m64"], {"memory": 64 * MB}),
    (["-m", "0"], {"memory": 0}),
    (["-m", "junk"], {"memory": 0}),
    (["-m", " +7x"], {"memory": 7 * MB}),
    (["-m", "4294967297"], {"memory": MB}),
    (["-m", "-1"], {"memory": (1 << 64) - MB}),
    (["-m", "1", "-m", "2"], {"memory": 2 * MB}),
    (["words", "-m", "64", "more"], {"memory": 64 * MB}),
    (["-m", "64", "--", "-m", "32", "--nonsense"], {"memory": 64 * MB}),
    (["-n", "4", "-r", "2"], {"nchannel": 4, "nrank": 2}),
    (["-r16"], {"nrank": 16}),
    (["-vm64"], {"memory": 64 * MB, "ignored": ["-v"]}),
    (["--socket-mem", "1,2,0"], {"socket_mem": {0: MB, 1: 2 * MB, 2: 0}, "memory": 0}),
    (["--socket-mem=" + ",".join("1" * 32)], {"socket_mem": dict.fromkeys(range(32), MB)}),
    (["--socket-mem=1,2", "--socket-mem=3"], {"socket_mem": {0: 3 * MB, 1: 2 * MB}}),
    (["--socket-mem= 5"], {"socket_mem": {0: 5 * MB}}),
    (["--socket-limit", "8,0"], {"socket_limit": {0: 8 * MB, 1: 0}}),
    (["--legacy-mem", "--socket-limit=8"], {"legacy_mem": True, "socket_limit": {0: 8 * MB}}),
    (["--no-huge"], {"no_huge": True, "legacy_mem": True, "memory": 0}),
    (["--no-hu", "--legacy", "--single"], {"no_huge": True, "single_file_segments": True}),
    (["--in-memory"], {"in_memory": True, "no_shconf": True, "unlink_before_mapping": True}),
    (["--in-memory", "--single-file-segments"], {"single_file_segments": True}),
    (["--match-allocations", "--no-shconf"], {"match_allocations": True, "no_shconf": True}),
    (["--huge-unlink"], {"unlink_before_mapping": True}),
    (["--huge-unlink=existing"], {"unlink_existing": True, "unlink_before_mapping": False}),
    (["--huge-unlink=always"], {"unlink_before_mapping": True}),
    (["--huge-unlink=never"], {"unlink_existing": False}),
    (["--huge-unlink", "never"], {"unlink_before_mapping": True}),
    (["--huge-unlink", "--huge-unlink=existing"], {"unlink_before_mapping": True}),
    (["--single-file-segments", "--huge-unlink=never"], {"unlink_existing": False}),
    (["--no-huge", "--huge-unlink=never"], {"no_huge": True}),
    (["--base-virtaddr=0x7f0000001000"], {"base_virtaddr": 0x7F0001000000}),
    (["--base-virtaddr", "100000000"], {"base_virtaddr": 0x100000000}),
    (["--base-virtaddr=0"], {"base_virtaddr": 0}),
    (["--iova-mode=pa"], {"iova_mode": "PA"}),
    (["--iova-mode", "va"], {"iova_mode": "VA"}),
    (["--proc-type=PRIMARY"], {"proc_type": "primary"}),
    (["--proc-type", "auto"], {"proc_type": "auto"}),
    (["--proc-type=bogus", "--proc-type=secondary"], {"proc_type": "secondary"}),
    (["--file-prefix", "a b"], {"file_prefix": "a b"}),
    (["--file-prefix=", "--file-prefix=x"], {"file_prefix": "x"}),
    (["--huge-dir=/nowhere"], {"huge_dir": "/nowhere"}),
    (["-l", "0"], {"lcores": [0], "cpus": [0]}),
    (["-l", ",0"], {"lcores": [0]}),
    (["-l", " 0 , 0"], {"lcores": [0]}),
    (["-l", "3-1,0"], {"lcores": [0]}),
    (["-c", " 0x1"], {"lcores": [0]}),
    (["-c1", "--main-lcore=0x0"], {"lcores": [0], "main_lcore": 0}),
    (["--lcores", "5@0"], {"lcores": [5], "cpus": [0]}),
    (["--lcores=(1-3,7)@(0),0"], {"lcores": [0, 1, 2, 3, 7], "cpus": [0]}),
    (["--no-pci", "--vdev=net_null0", "-a", "00:01.0", "--log-level=8", "--no-telemetry"],
     {"ignored": ["--no-pci", "--vdev=net_null0", "-a=00:01.0", "--log-level=8",
                  "--no-telemetry"]}),
    (["--vfio-intr=msi", "--force-max-simd-bitwidth=512"],
     {"ignored": ["--vfio-intr=msi", "--force-max-simd-bitwidth=512"]}),
    (["--huge-worker-stack", "--huge-worker-stack=64"], {"worker_stack": 64 << 10}),
    ([f"--vfio-vf-token={TOKEN}"], {"ignored": [f"--vfio-vf-token={TOKEN}"]}),
]

# Arguments that 22.11 refuses, and EAL's words for it; a real librte_eal must say them as well.
REFUSED: list[tuple[list[str], str]] = [
    (["-m", "64", "--socket-mem", "64"],
     "Options -m and --socket-mem cannot be specified at the same time"),
    (["-m", "0", "--socket-mem", "0"],
     "Options -m and --socket-mem cannot be specified at the same time"),
    (["--no-huge", "--socket-mem=1"],
     "Option --socket-mem cannot be specified together with --no-huge"),
    (["--no-huge", "--huge-unlink"],
     "Option --huge-unlink cannot be specified together with --no-huge"),
    (["--no-huge", "--huge-worker-stack"],
     "Option --huge-worker-stack cannot be specified together with --no-huge"),
    (["--no-huge", "--in-memory"], "Option --legacy-mem is not compatible with --in-memory"),
    (["--legacy-mem", "--in-memory"], "Option --legacy-mem is not compatible with --in-memory"),
    (["--legacy-mem", "--match-allocations"],
     "Option --legacy-mem is not compatible with --match-allocations"),
    (["--no-huge", "--match-allocations"],
     "Option --legacy-mem is not compatible with --match-allocations"),
    (["--single-file-segments", "--huge-unlink"],
     "Option --single-file-segments is not compatible with --huge-unlink"),
    (["--in-memory", "--huge-unlink=never"],
     "Option --in-memory is not compatible with --huge-unlink=never"),
    *((["--socket-mem=" + bad], "invalid parameters for --socket-mem")
      for bad in (",1", "1,", "x", "8x", "1,,2", ",".join("1" * 33), "0" * 320,
                  "99999999999999999999")),
    (["--socket-limit=1,"], "invalid parameters for --socket-limit"),
    (["--huge-unlink=sometimes"], "invalid --huge-unlink option"),
    (["--huge-unlink="], "invalid --huge-unlink option"),
    (["--base-virtaddr=junk"], "invalid parameter for --base-virtaddr"),
    (["--base-virtaddr="], "invalid parameter for --base-virtaddr"),
    (["--iova-mode=PA"], "invalid parameters for --iova-mode"),
    (["--proc-type=bogus"], "Invalid process type specified"),
    (["--file-prefix="], "Invalid length of --file-prefix option"),
    (["--file-prefix=a%b"], "Invalid char, '%', in --file-prefix option"),
    (["--huge-dir="], "Invalid length of --huge-dir option"),
    (["-n", "0"], "invalid channel number"),
    (["-n", "four"], "invalid channel number"),
    (["-r", "0"], "invalid rank number"),
    (["-r", "17"], "invalid rank number"),
    (["-r", "-1"], "invalid rank number"),
    (["-no-huge"], "invalid channel number"),
    (["-l", "0", "-l", "0"], "Option -l is ignored, because (-l) is set!"),
    (["-l", "0", "-c", "1"], "Option -c is ignored, because (-l) is set!"),
    (["-c", "1", "--lcores=0"], "Option --lcores is ignored, because (-c) is set!"),
    *((["-l", bad], "invalid core list syntax") for bad in ("", "x", "0,", "-1", "3-1", "0;1")),
    (["-l", "0,128"], "lcore 128 >= RTE_MAX_LCORE (128)"),
    (["-c", "1" + "0" * 32], "lcore 128 >= RTE_MAX_LCORE (128)"),
    (["-l", "127"], "lcore 127 unavailable"),
    *((["-c", bad], "invalid coremask syntax") for bad in ("", "0", "0x", "1g")),
    *(([f"--lcores={bad}"], "invalid parameter for --lcores")
      for bad in ("", "0-1@0", "(0", "()", "a", "128@0", "0@", "0,", "(0-1-2)@0")),
    (["--main-lcore=128"], "invalid parameter for --main-lcore"),
    (["--main-lcore=127"], "Main lcore is not enabled for DPDK"),
    (["--force-max-simd-bitwidth=100"], "invalid parameter for --force-max-simd-bitwidth"),
    (["--huge-worker-stack=0"], "invalid parameter for --huge-worker-stack"),
    (["--vfio-intr=none"], "invalid parameters for --vfio-intr"),
    *(([f"--vfio-vf-token={bad}"], "invalid parameters for --vfio-vf-token")
      for bad in ("x", TOKEN[1:], TOKEN + "0", TOKEN.replace("-", ""), "g" + TOKEN[1:])),
    (["-a", "00:01.0", "-b", "00:02.0"],
     "Options allow (-a) and block (-b) can't be used at the same time"),
    (["--mbuf-pool-ops-name="], "Invalid length of --mbuf-pool-ops-name option"),
    (["--nonsense"], "unrecognized option '--nonsense'"),
    (["--numa-mem=1"], "unrecognized option '--numa-mem=1'"),
    (["-w", "00:01.0"], "invalid option -- 'w'"),
    (["--no-h"], "option '--no-h' is ambiguous"),
    (["--no-huge=1"], "option '--no-huge' doesn't allow an argument"),
    (["-m"], "option requires an argument -- 'm'"),
    (["--file-prefix"], "option '--file-prefix' requires an argument"),
]

# The words of 25.11, which are others; seen in Debian's 25.11.4.
PAIRS = (
    "no-huge numa-mem=1", "coremask=1 lcores=0", "service-coremask=1 service-corelist=1",
    "no-telemetry telemetry", "memory-size=1 numa-mem=1", "no-huge huge-worker-stack",
    "numa-limit=1 legacy-mem", "legacy-mem in-memory", "legacy-mem match-allocations",
    "no-huge match-allocations", "no-huge huge-unlink=existing", "in-memory huge-unlink",
    "single-file-segments huge-unlink=existing", "no-huge single-file-segments",
)
ARGPARSE_WORDS: list[tuple[list[str], str]] = [
    *(
        (
            ["--" + word for word in pair.split()],
            "Options '{}' and '{}' can't be".format(*(w.partition("=")[0] for w in pair.split())),
        )
        for pair in PAIRS
    ),
    (["-a", "00:01.0", "-b", "00:02.0"],
     "Options allow (-a) and block (-b) can't be used at the same time"),
    (["--base-virtaddr=junk"], "invalid base virtaddr 'junk'"),
    (["--iova-mode=dc"], "invalid iova mode parameter 'dc'"),
    (["--proc-type=bogus"], "invalid process type: bogus"),
    (["--socket-mem=1,"], "invalid numa-mem parameter: '1,'"),
    (["--numa-limit=x"], "invalid numa-limit parameter: 'x'"),
    (["--huge-unlink=x"], "invalid huge-unlink parameter"),
    (["--huge-dir="], "Invalid hugepage dir parameter"),
    (["--file-prefix="], "Invalid file prefix parameter"),
    (["--file-prefix=a%b"], "Invalid char, '%', in file_prefix parameter"),
    (["-n0"], "invalid memory channel parameter"),
    (["-r17"], "invalid memory rank parameter"),
    (["-lx"], "Error parsing lcore list: 'x'"),
    (["-l", "0-1@0"], "invalid lcore mapping list: '0-1@0'"),
    (["-R128"], "invalid lcore base id: 128"),
    (["-R", "-l", "0@1"], "cannot use '@' or core groupings '()' in lcore list"),
    (["--nonsense"], "unknown argument --nonsense!"),
    (["-n4", "-n=4"], "argument -n should not occur multiple times!"),
    (["--no-huge=1"], "argument --no-huge should not take value!"),
    (["--vfio-vf-token=x"], "invalid vfio vf token parameter: 'x'"),
    (["-m"], "argument -m doesn't have value!"),
]

# Where releases part: arguments, the releases that accept them, the others' words.
ALL = list(releases.RELEASES)
GETOPT, ARGPARSE = ALL[:5], ALL[5:]
BY_RELEASE: list[tuple[list[str], list[str], str]] = [
    (["--huge-unlink=never"], ALL[2:], "option '--huge-unlink' doesn't allow an argument"),
    (["--huge-unlink"], ALL, ""),
    (["--huge-worker-stack=64"], ALL[2:], "unrecognized option '--huge-worker-stack'"),
    (["--master-lcore=0"], ALL[:1], "--master-lcore"),
    (["-w", "00:01.0"], ALL[:1], "w"),
    (["--pci-whitelist=00:01.0"], ALL[:1], "--pci-whitelist"),
    (["--syslog"], ALL[4:], "option '--syslog' requires an argument"),
    (["--log-color=never", "--log-timestamp"], ALL[4:], "unrecognized option '--log-color'"),
    (["--numa-mem=1", "--numa-limit=2"], ARGPARSE, "unrecognized option '--numa-mem'"),
    (["--memory-size=1", "--memory-channels=2"], ARGPARSE, "unrecognized option '--memory-size'"),
    (["--remap-lcore-ids"], ARGPARSE, "unrecognized option '--remap-lcore-ids'"),
    (["--pagesz-mem=2M:32G"], ALL[6:], "--pagesz-mem"),
    (["-A"], ALL[6:], "A"),
    (["-m=64"], ALL, ""),  # "=64" is no number and so 0 MiB with getopt
    (["--no-hug"], GETOPT, "unknown argument --no-hug!"),
    (["-vm64"], GETOPT, "argument -v should not take value!"),
    (["-m", "1", "-m", "2"], GETOPT, "argument -m should not occur multiple times!"),
    (["-a=00:01.0", "-a", "00:02.0"], ALL, ""),
    (["-l", "3-1"], ARGPARSE, "invalid core list syntax"),
    (["-l", "0,"], [], ""),
    (["-l", ",1"], GETOPT, "Error parsing lcore list: ',1'"),
    (["-l", "2@0"], ARGPARSE, "invalid core list syntax"),
    (["--no-huge", "--in-memory"], ARGPARSE,
     "Option --legacy-mem is not compatible with --in-memory"),
    (["--no-huge", "--single-file-segments"], GETOPT,
     "Options 'no-huge' and 'single-file-segments' can't be used at the same time"),
    (["--in-memory", "--huge-unlink"], GETOPT,
     "Options 'in-memory' and 'huge-unlink' can't be used at the same time"),
    (["--legacy-mem", "--socket-limit=1"], GETOPT,
     "Options 'numa-limit' and 'legacy-mem' can't be used at the same time"),
    (["-m", "1", "--socket-mem=1"], [], ""),
    (["--no-telemetry", "--telemetry"], GETOPT,
     "Options 'no-telemetry' and 'telemetry' can't be used at the same time"),
    (["-l0", "-c1"], [], ""),
    (["-r", "17"], [], ""),
    (["--socket-mem=1,1,1,1,1"], ALL[1:], "invalid parameters for --socket-mem"),
]


class Both(Host):
    """A machine whose CPUs 0 and 1 may run a process."""

    def affinity(self) -> set[int]:
        return {0, 1}


def parsed(args: list[str], release: str = "22.11.11") -> options.Options:
    return options.parse(args, releases.get(release))


def ids(rows: Sequence[tuple[list[str], object]]) -> list[str]:
    return [" ".join(a if len(a) < 30 else a[:30] + "..." for a in row[0]) or "-" for row in rows]


@pytest.mark.parametrize(("args", "facts"), ACCEPTED, ids=ids(ACCEPTED))
def test_accepted_arguments_become_options(args: list[str], facts: dict[str, object]) -> None:
    o = parsed(args)

    assert {name: getattr(o, name) for name in facts} == facts


@pytest.mark.parametrize(("args", "phrase"), REFUSED, ids=ids(REFUSED))
def test_refusals_carry_eals_words_and_errno(args: list[str], phrase: str) -> None:
    cpus = lcores.Cpus({0: 0, 1: 0}, [0])
    with pytest.raises(EalError) as e:
        lcores.enabled(parsed(args), cpus, Both())

    assert e.value.errno == EINVAL
    assert e.value.stage == "options"
    assert phrase in e.value.text


@pytest.mark.parametrize(("args", "phrase"), ARGPARSE_WORDS, ids=ids(ARGPARSE_WORDS))
def test_refusals_of_argparse(args: list[str], phrase: str) -> None:
    with pytest.raises(EalError) as e:
        parsed(args, "25.11.2")

    assert e.value.text.startswith(phrase)


@pytest.mark.parametrize("release", ALL)
@pytest.mark.parametrize(
    ("args", "accepting", "phrase"), BY_RELEASE, ids=[" ".join(r[0]) for r in BY_RELEASE]
)
def test_releases_part_where_the_table_says(
    args: list[str], accepting: list[str], phrase: str, release: str
) -> None:
    try:
        parsed(args, release)
        refusal = None
    except EalError as e:
        refusal = e.text

    assert (refusal is None) == (release in accepting), refusal
    if refusal and phrase:
        known = (phrase, phrase.replace("unrecognized option '", "unknown argument "))
        assert any(k.rstrip("'") in refusal for k in known)


def test_aliases_of_argparse_replace_each_other() -> None:
    """--numa-mem and --socket-mem write to one place; getopt's releases merge node by node."""
    assert parsed(["--socket-mem=3,4", "--numa-mem=5"], "25.11").socket_mem == {0: 5 * MB}
    assert parsed(["--numa-mem=5", "--socket-mem=3,4"], "25.11").socket_mem == {
        0: 3 * MB,
        1: 4 * MB,
    }


@pytest.mark.parametrize(
    ("args", "ids", "cpus"),
    [
        (["-l", "4-2"], [2, 3, 4], [2, 3, 4]),
        (["-l", "4-5,9", "-R"], [0, 1, 2], [4, 5, 9]),
        (["-R7", "-l", "4,5"], [7, 8], [4, 5]),
        (["--lcores=4,5", "--remap-lcore-ids=3"], [3, 4], [4, 5]),
        (["-R", "-l", "200,300"], [0, 1], [200, 300]),
        (["-l", "(0-2)@(1,3)"], [0, 1, 2], [1, 3]),
    ],
)
def test_lists_of_cores_since_argparse(args: list[str], ids: list[int], cpus: list[int]) -> None:
    o = parsed(args, "26.07")

    assert (o.lcores, o.cpus) == (ids, cpus)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (["2M:32G"], {M2: 32 * G1}),
        (["2M:0", "1G:4G"], {M2: 0, G1: 4 * G1}),
        (["2M:32G", "2048kB:2M"], {M2: M2}),
        (["2M"], None),
        (["2M:3M"], None),
        (["3M:3M"], None),
        (["2M:4M,1G:1G"], None),
        (["2M:4M:1G"], {M2: 4 * MB}),
        (["1G:"], None),
        (["64k:1M", "2M:2M", "32M:32M", "1G:1G"], None),
    ],
)
def test_pagesz_mem(values: list[str], want: dict[int, int] | None) -> None:
    args = [f"--pagesz-mem={v}" for v in values]
    if want is None:
        with pytest.raises(EalError, match="pagesz-mem"):
            parsed(args, "26.07")
    else:
        assert parsed(args, "26.07").pagesz_mem == want


@pytest.mark.parametrize(
    ("args", "release", "level", "phrase"),
    [
        (["--huge-unlink=never"], "22.11", "WARNING", "may create data leaks"),
        (["--legacy-mem"], "22.11", "NOTICE", "Static memory layout is selected"),
        (["--no-huge"], "22.11", "NOTICE", "Static memory layout is selected"),
        (["--no-huge", "-m1"], "22.11", "", ""),
        (["--no-huge"], "25.11", "", ""),
        (["--legacy-mem"], "25.11", "NOTICE", "Static memory layout is selected"),
        (["--legacy-mem", "--socket-mem=4"], "22.11", "", ""),
        (["--legacy-mem", "-m1", "--socket-limit=4"], "22.11", "ERR",
         "Option --socket-limit is only supported in non-legacy memory mode"),
        (["--pagesz-mem=2M:2M", "--pagesz-mem=2M:4M"], "26.07", "WARNING", "multiple times"),
    ],
)
def test_what_is_logged(args: list[str], release: str, level: str, phrase: str) -> None:
    said: list[tuple[str, str]] = []
    options.parse(args, releases.get(release), lambda lv, text: said.append((lv, text)))

    assert [lv for lv, _ in said] == ([level] if level else [])
    assert not level or phrase in said[0][1]


@pytest.mark.parametrize(
    ("text", "base", "want"),
    [
        ("12,3", 10, (12, ",3")),
        ("-7x", 10, (-7, "x")),
        ("0x1F ", 0, (31, " ")),
        ("0x", 16, (0, "x")),
        ("017", 0, (15, "")),
        ("08", 0, (0, "8")),
        ("+5", 10, (5, "")),
        ("+", 10, (0, "+")),
        ("x", 10, (0, "x")),
        ("9" * 5000 + "k", 0, (int("9" * 999), "k")),
    ],
)
def test_numbers_are_read_as_strtol_does(text: str, base: int, want: tuple[int, str]) -> None:
    assert cparse.strto(text, base) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [("2048kB", M2), ("2M,mode=0700", M2), ("1 G", G1), ("16", 16), ("0", 0), ("x", None),
     ("-2M", None), ("", None), ("0x10M", 16 * MB)],
)
def test_sizes_are_read_as_rte_str_to_size_does(text: str, want: int | None) -> None:
    assert cparse.size_of(text) == want


# --- against the real one -------------------------------------------------------------------------

Ask = Callable[[list[str]], dict[str, object]]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[releases.Release, Ask]]:
    """The librte_eal of this machine and its release."""
    env = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path_factory.mktemp("run"))}
    with subprocess.Popen(
        [sys.executable, str(ORACLE)],
        env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as p:
        assert p.stdin and p.stdout

        def ask(args: list[str]) -> dict[str, object]:
            assert p.stdin and p.stdout
            print(json.dumps(args), file=p.stdin, flush=True)
            return json.loads(p.stdout.readline())  # type: ignore[no-any-return]

        hello = p.stdout.readline()
        if not hello:
            pytest.skip("no librte_eal on this machine")
        yield releases.get(json.loads(hello)["version"].removeprefix("DPDK ")), ask
        p.stdin.close()
        p.wait(10)


LISTS = [args for args, _ in ACCEPTED] + [args for args, _ in REFUSED] + [r[0] for r in BY_RELEASE]


def test_a_real_eal_agrees_on_every_list(real: tuple[releases.Release, Ask]) -> None:
    """Accepted or refused, and refused in the words that pyeal has for it."""
    release, ask = real
    cpus = lcores.discover(release)
    differing = []
    for args in LISTS:
        try:
            lcores.enabled(options.parse(args, release), cpus)
            words = None
        except EalError as e:
            words = e.what.partition(": ")[0]
        answer = ask(args)
        agreed = answer["accepted"] if words is None else words in str(answer["text"])
        if answer["accepted"] != (words is None) or not agreed:
            differing.append((args, words, answer["accepted"], answer["text"]))

    assert not differing, differing
    assert len(LISTS) > 100
