"""pyeal explain: logs of users get the right answer, in every form in which a log is copied."""

from __future__ import annotations

import io
import json
import sys
import textwrap
import tomllib
from pathlib import Path
from random import Random

import pytest

from pyeal.tools.explain import log, messages
from pyeal.tools.explain.line import ALL, SPEAKING
from pyeal.tools.explain.table import branches, compiled, words_of
from pyeal.tools.explain.verdict import Reading

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures/explain"
CASES = [
    {"fix": "", "not_in_fix": "", "harmless": [], **case}
    for name in ("cases.toml", "posted.toml", "unseen.toml")
    for case in tomllib.loads((FIXTURES / name).read_text("utf-8"))["log"]
]
NAMES = [case["name"] for case in CASES]


def answer(data: bytes) -> list[tuple[object, str, str, str]]:
    """Return (problem, verdict, title, fix) of each that explain finds."""
    reading = Reading()
    reading.read(log.lines(io.BytesIO(data)))
    return [
        (
            "" if p.id is None else p.id,
            "harmless" if p.harmless else "cause" if certain else "possible",
            p.title,
            reading.start.facts.fill(p.fix, line),
        )
        for p, line, certain in reading.told()
    ]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_log_gets_its_answer(case):
    """The cause, how sure it is, its fix with the sizes and paths of the log; what is harmless."""
    told = answer(case["text"].encode())
    problem, verdict, title, fix = told[0]

    assert (problem, verdict) == (case["problem"], case["verdict"])
    assert case["title"] in title
    assert case["fix"] in fix
    assert not case["not_in_fix"] or case["not_in_fix"] not in fix
    assert set(case["harmless"]) <= {p for p, v, _, _ in told[1:] if v == "harmless"}
    assert all("remount," not in f and "{" not in f for *_, f in told)


def each(form):
    return lambda text: "\n".join(map(form, text.splitlines())) + "\n"


def quoted_printable(text):
    """Soft breaks at 76 characters, as mail has them."""
    return "".join(
        "=\n".join(line.replace("=", "=3D")[i : i + 75] for i in range(0, max(len(line), 1), 75))
        + "\n"
        for line in text.splitlines()
    )


FORMS = {
    "coloured": each(lambda line: f"\x1b[1;31m{line}\x1b[0m"),
    "colour-lost": each(lambda line: f"[31m{line}[0m"),
    "syslog-colour": each(lambda line: f"#033[31m{line}#033[0m"),
    "journald": each(lambda line: f"Nov 30 12:00:01 host app[4711]: {line}"),
    "timestamps": each(lambda line: f"2026-11-30T12:00:01.123456Z {line}"),
    "container-json": each(
        lambda line: json.dumps({"log": line + "\n", "stream": "stderr", "time": "2026"})
    ),
    "coloured-json": each(lambda line: json.dumps({"msg": f"\x1b[31m{line}\x1b[0m", "level": "x"})),
    "journald-json": each(lambda line: json.dumps({"MESSAGE": list(line.encode())})),
    "cri": each(lambda line: f"2026-11-30T12:00:01Z stderr P {line[:9]}\n2026 stderr F {line[9:]}"),
    "mail-quote": each(lambda line: f"> > {line}"),
    "quoted-printable": quoted_printable,
    "crlf": each(lambda line: line + "\r"),
    "nul": each(lambda line: line.replace(" ", "\0 ", 1)),
    "not-utf8": each(lambda line: line),
    "html": each(lambda line: line.replace("'", "&#39;").replace("<", "&lt;")),
    "typographic": each(lambda line: line.replace("'", "\u2019").replace(" ", "\u00a0", 1)),
}


PLAIN = {case["name"]: answer(case["text"].encode()) for case in CASES}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_log_does_not_matter(form):
    """Each log of the fixtures has the same answers in a form in which it may be copied."""
    wrong = {}
    for case in CASES:
        if "=\n" in case["text"] and form not in ("crlf", "mail-quote", "not-utf8"):
            continue  # mail has wrapped it already
        data = FORMS[form](case["text"]).encode()
        if form == "not-utf8":
            data = b"\xff\xfe\x80 caf\xe9\n" + data + b"\xe9\n"
        told = [t[:2] for t in answer(data)]
        if told != (plain := [t[:2] for t in PLAIN[case["name"]]]):
            wrong[case["name"]] = told, plain

    assert wrong == {}


@pytest.mark.parametrize("wrap", ["mail", "screen"])
@pytest.mark.parametrize("width", [80, 72, 60])
def test_a_wrapped_log_has_the_same_cause(width, wrap):
    """Mail breaks at a space, a screen anywhere."""
    wrong = {}
    for case in CASES:
        lines = case["text"].splitlines()
        if wrap == "mail":
            text = "\n".join(textwrap.fill(line, width) for line in lines)
        else:
            text = "\n".join(
                line[i : i + width] for line in lines for i in range(0, len(line), width)
            )
        told = answer(text.encode())
        if not told or told[0][:2] != PLAIN[case["name"]][0][:2]:
            wrong[case["name"]] = told[:1], PLAIN[case["name"]][:1]

    assert wrong == {}


@pytest.mark.parametrize(
    "line",
    [
        "EAL: get_seg_fd(): open '/dev/hugepages/rtemap_0' failed: Permission deni",
        "EAL: get_seg_fd(): open '/dev/hugepages/rtemap_0' failed: Permission de...",
        "EAL: get_seg_fd(): open '/dev/hugepages/rtemap_0' failed: Keine Berechtigung",
        "EAL: get_seg_fd(): open '/dev/hugepages/rtemap_0' failed: 权限不够",
    ],
)
def test_a_cut_line_and_other_languages(line):
    assert answer(line.encode())[0][:2] == (10, "cause")


ENDS = {
    "SIGBUS": """\
Exited (135) 3 seconds ago
command terminated with exit code 135
switchd.service: Main process exited, code=killed, status=7/BUS
Last State: Terminated; Reason: Error; Exit Code: 135
Command 'app' died with <Signals.SIGBUS: 7>.
returned non-zero exit status -7
Program terminated with signal SIGBUS, Bus error.
traps: app[99] trap bus error ip:55 sp:7f error:0 in app
{"exitCode":135}
Bus-Zugriffsfehler (Speicherabzug geschrieben)
./run.sh: Zeile 3: 4711 Bus-Zugriffsfehler  ./app -l 0
Erreur du bus (core dumped)
总线错误 (核心已转储)
バスエラー (コアダンプ)
Ошибка шины (образ памяти сброшен на диск)
Error del bus (`core' generado)""",
    "SIGKILL": """\
State: Terminated, Reason: OOMKilled, Exit Code: 137
reason: OOMKilled
Memory cgroup out of memory: Killed process 4711 (app)
signal: killed
app.service: Main process exited, code=killed, status=9/KILL
Getötet
Processus arrêté
Убито
强制结束: exit code 137""",
    "SIGSEGV": """\
Segmentation fault (core dumped)
exit code 139
app.service: Main process exited, code=dumped, status=11/SEGV
Speicherzugriffsfehler (Speicherabzug geschrieben)
段错误 (核心已转储)
Erreur de segmentation
Ошибка сегментирования (образ памяти сброшен на диск)""",
    "SIGABRT": """\
Aborted (core dumped)
exit code 134
app.service: Main process exited, code=dumped, status=6/ABRT
Abgebrochen (Speicherabzug geschrieben)
Abandon (core dumped)
已放弃 (核心已转储)
Аварийный останов""",
}


@pytest.mark.parametrize("signal", ENDS)
def test_the_end_of_a_process_is_understood(signal):
    """By exit codes of shells, Docker, Kubernetes, systemd and Python, in several languages."""
    for end in ENDS[signal].splitlines():
        told = answer(f"EAL: Detected CPU lcores: 4\n{end}".encode())

        assert told and signal in told[0][2], (end, told)


def test_the_order_of_lines_matters_little():
    """stderr and stdout of a container come mixed: 95 of 100 logs have the same cause reversed."""
    other = [
        case["name"]
        for case in CASES
        if (told := answer("\n".join(case["text"].splitlines()[::-1]).encode()))
        and told[0][:2] != PLAIN[case["name"]][0][:2]
    ]

    assert len(other) <= len(CASES) / 20, other


def test_no_log_writes_a_command():
    """Arguments and paths of a log go into a fix as words of a shell, or not at all."""
    line = "EAL: Error creating '/run/x`id`/dpdk': No such file or directory"
    args = "EAL: DPDK EAL parameters: app -m 64 --file-prefix=$(id)"
    good = "EAL: DPDK EAL parameters: app -m 64 --lcores=(0,1)@2"
    fatal = "EAL: FATAL: Cannot init memory"

    assert "`id`" not in answer(line.encode())[0][3].replace("'/run/x`id`'", "")
    assert "$(id)" not in answer(f"{args}\n{fatal}".encode())[0][3]
    assert "-- -m 64 '--lcores=(0,1)@2'" in answer(f"{good}\n{fatal}".encode())[0][3]


def test_nothing_of_a_log_moves_the_cursor():
    data = b"EAL: FATAL: \x1b[2J\x1b]0;title\x07\x9b31m\x08Cannot init memory\x7f\xc2\x9b\n"

    assert next(iter(log.lines(io.BytesIO(data)))).isprintable()


def test_no_pattern_is_missed_by_its_words():
    """The words by which patterns are chosen are in every line that one of them matches."""
    lines = [line for case in CASES for line in case["text"].splitlines()]
    lines += [f"EAL: {' '.join(m.words)}" for found in messages.table().values() for m in found]
    patterns = [
        (p, branch)
        for p in ALL.order
        for _, pattern in p.patterns
        for branch, _, _ in branches(pattern)
    ]
    missed = []
    for line in lines:
        low, words = line.lower(), words_of(line)
        found = ALL.matches(low, SPEAKING.intersection(words), words)
        all_of_them = {(p, b) for p, b in patterns if compiled(b).search(low)}
        if {(p, m.re.pattern) for p, _, m in found} != all_of_them:
            missed.append(line)

    assert missed == []


def test_a_line_is_tried_with_few_patterns():
    """Counted, not timed: searches by patterns for a line that differs from all others."""
    noise = "packet port queue error failed flow rule no not exit code status start link".split()
    random = Random(1)
    lines = [f"2026-11-30 app[7]: {' '.join(random.choices(noise, k=12))} {i}" for i in range(500)]
    calls = 0

    def count(_frame, event, function):
        nonlocal calls
        calls += event == "c_call" and function.__name__ == "search"

    sys.setprofile(count)
    try:
        Reading().read(lines)
    finally:
        sys.setprofile(None)

    assert calls <= 15 * len(lines)


def test_a_long_log_is_read_in_bounded_memory():
    """Only a few lines are kept, whatever the length of the log."""
    reading = Reading()
    reading.read(f"EAL: failed to do {i}: reason{i}" for i in range(30_000))

    assert len(reading._known) <= 4096
    assert len(reading.start.tail) <= 2000


def test_a_cause_is_found_between_many_lines_that_all_differ():
    """Of 40,000 lines that all differ, 8,000 are looked at, and what is around an end of EAL."""
    random = Random(1)
    noise = "packet port queue error failed flow rule no not exit code status start link".split()
    lines = [f"app: {' '.join(random.choices(noise, k=12))} {i:x}" for i in range(40_000)]
    lines[30_000:30_000] = [
        "EAL: alloc_seg(): mmap() failed: Cannot allocate memory",
        "EAL: FATAL: Cannot init memory",
    ]
    reading = Reading()
    reading.read(lines)

    assert reading.told()[0][0].id == 6
    assert reading._looks <= 10_500
