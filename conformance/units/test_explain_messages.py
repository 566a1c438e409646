"""pyeal explain: each message of EAL since 16.11 gets an answer, and not that of another part."""

from __future__ import annotations

import pytest

from pyeal.tools.explain import messages, read

ROWS = [m for found in messages.table().values() for m in found]
FATAL = {  # what rte_eal_init() reports when a part fails
    "memory": "Cannot init memory",
    "runtime directory": "Cannot clear runtime directory",
    "options": "Invalid 'command line' arguments.",
    "channel": "failed to init mp channel",
    "process": "Cannot init config",
    "devices": "Cannot probe devices",
    "drivers": "Cannot init plugins",
    "CPUs": "Cannot detect lcores.",
    "interrupts": "Cannot init interrupt-handling thread",
    "clocks": "Cannot init HPET or TSC timers",
    "trace": "Cannot init trace",
    "log": "Cannot init logging.",
}
VALUES = 3 * "at 0x7f0000200000 of /dev/sample-0 in x with y for z by w ".split()


def log_of(m: messages.Message) -> list[str]:
    """Return the log of a start that fails with a message: its words, values, EAL's last line."""
    words = " ".join((*m.words, *VALUES[: max(0, m.fixed - len(m.words)) + 3]))
    level = "FATAL: " if m.level == "FATAL" else ""
    return [
        f"EAL: {level}{m.function}(): {words}",
        f"EAL: FATAL: {FATAL.get(m.about, 'Cannot init memory')}",
    ]


def test_there_are_rows_of_each_part() -> None:
    assert len(ROWS) > 1_100
    assert {m.about for m in ROWS} >= {*messages.OURS, *FATAL}


@pytest.mark.parametrize("part", sorted({m.about for m in ROWS}))
def test_no_message_is_silent_or_of_another_part(part: str) -> None:
    """A message about memory, options or the channel is not called another part's, nor the reverse.

    What a device or CPU does is a cause only for lcores, IOVA, VFIO and a page without memory.
    """
    wrong = {}
    for m in ROWS:
        if m.about != part:
            continue
        log = log_of(m)
        told = read(log)
        if not told:
            wrong[log[0]] = "silent"
            continue
        p = told[0][0]
        if part in messages.OURS and "not about memory" in p.title:
            wrong[log[0]] = p.title
        elif part in ("devices", "drivers", "interrupts", "clocks", "trace", "log") and p.id in (
            1,
            2,
            5,
            6,
            7,
            10,
            11,
            12,
            13,
            14,
            16,
            18,
            19,
            20,
            21,
            45,
        ):
            wrong[log[0]] = f"{p.id} {p.title}"

    assert wrong == {}


@pytest.mark.parametrize("part", messages.OURS)
def test_each_error_of_eals_memory_has_knowledge(part: str) -> None:
    """An error of these parts has a row: a pattern, or the place in the source."""
    general = []
    for m in ROWS:
        if m.about == part and m.level in ("FATAL", "PANIC", "EXIT", "CRITICAL", "ERR"):
            p = read(log_of(m)[:1])[0][0]
            if p.title.startswith(("EAL gave up, about", "an error of EAL, about")):
                general.append(repr(m))

    assert general == []
