"""What each of the four said, and where they differ."""

from __future__ import annotations

import json
import re
import signal
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.campaigns.rehearsal.situation import Situation
    from conformance.campaigns.rehearsal.world import Ran

STARTS, WAITS = "starts", "waits"
# the last line of a real log that matches, and the stage that it is about
STAGES = (
    ("runtime", r"Cannot create runtime directory"),
    ("config", r"Cannot init config"),
    ("iova", r"Cannot use IOVA as"),
    ("interrupts", r"Cannot init interrupt"),
    ("hugepages", r"Cannot get hugepage information"),
    ("memzone", r"Cannot init memzone"),
    ("memory", r"Cannot init memory|Cannot init VFIO"),
    ("heap", r"Cannot init malloc heap"),
    ("tailqs", r"Cannot init tail queues"),
    ("threads", r"Cannot set affinity|Cannot create .*thread"),
    ("mp", r"failed to init mp channel|rte_mp_channel_init"),
    ("service", r"rte_service_init\(\) failed"),
    (
        "options",
        r"Invalid 'command line' arguments|[Ii]nvalid|Cannot get|not supported|"
        r"ARGPARSE:|Error parsing command line|unrecognized option|unknown argument|"
        r"Unsupported|incompatible|not compatible",
    ),
)
OF_MEMORY = "memseg", "fbarray", "vaspace", "memfd", "pages", "memalloc", "memory", "lists"
DIFFERS = Path(__file__).parent / "differs.toml"
WHO = "init", "plan", "doctor"


def stage(name: str) -> str:
    return "memory" if name in OF_MEMORY else name


def of_real(ran: Ran) -> str:
    """Return "starts", "waits", or the stage that failed; a signal's name if it died."""
    if ran.code is None:
        return WAITS
    words = [json.loads(line) for line in ran.out.splitlines() if line.startswith("{")]
    if any("ok" in w for w in words):
        return STARTS
    if ran.code < 0:
        return signal.Signals(-ran.code).name
    lines = ran.err.splitlines()
    if "Cannot create runtime directory" in ran.err:  # until 21.11 a part of the arguments
        return "runtime"
    for pattern in ("FATAL", "."):
        for line in reversed(lines):
            found = re.search(pattern, line) and _stage_of(line)
            if found:
                return found
    return "unknown"


def _stage_of(line: str) -> str:
    return next((name for name, pattern in STAGES if re.search(pattern, line)), "")


def of_init(ran: Ran) -> str:
    if ran.code is None:
        return WAITS
    if ran.code < 0:
        return signal.Signals(-ran.code).name
    facts = _json(ran)
    if ran.code == 0 and facts:
        return STARTS
    return stage(facts["error"]["stage"]) if "error" in facts else "traceback"


def of_plan(ran: Ran) -> str:
    if ran.code is None or ran.code < 0:
        return of_init(ran)
    facts = _json(ran)
    if "ok" not in facts:
        return of_init(ran)
    return STARTS if facts["ok"] else stage(facts["error"]["stage"])


def of_doctor(ran: Ran) -> str:
    if ran.code is None or ran.code < 0:
        return of_init(ran)
    facts = _json(ran)
    if "verdict" not in facts:
        return of_init(ran)
    if facts["verdict"] == "OK":
        return STARTS
    return stage(facts["stage"]) if facts.get("stage") else f"link {facts['first']}"


def _json(ran: Ran) -> Any:
    try:
        return json.loads(ran.out)
    except ValueError:
        return {}


OF = {"init": of_init, "plan": of_plan, "doctor": of_doctor, "real": of_real}


def verdicts(ran: dict[str, Ran]) -> dict[str, str]:
    found = {who: OF[who](r) for who, r in ran.items()}
    if own := _json(ran["plan"]).get("pyeal"):
        found["stricter"] = stage(own["stage"])
    return found


def same(real: str, told: str) -> bool:
    """Whether pyeal said what the real one did. A start that waits or dies is a failure."""
    if real == WAITS:
        return told not in (STARTS,)
    if real.startswith("SIG"):
        return told != STARTS
    return real == told


class Differences:
    """The differences that are meant."""

    def __init__(self) -> None:
        self.rows = tomllib.loads(DIFFERS.read_text()).get("differs", [])

    def meant(self, s: Situation, who: str, real: str, told: str) -> bool:
        return any(
            fnmatchcase(str(s), row.get("situation", "*"))
            and fnmatchcase(s.release, row.get("release", "*"))
            and who in row.get("who", WHO)
            and fnmatchcase(real, row["real"])
            and fnmatchcase(told, row["pyeal"])
            for row in self.rows
        )

    def wrong(self, s: Situation, found: dict[str, str]) -> list[str]:
        """Return which of pyeal's three differ from the real one without a reason.

        If plan says that pyeal alone refuses it, init must do so.
        """
        real, own = found["real"], found.get("stricter", "")
        wrong = [who for who in WHO if not same(real, found[who])]
        if own:
            wrong = [who for who in wrong if who != "init"] + ["init"] * (found["init"] != own)
        if "--proc-type=secondary" in s.args or "--proc-type=auto" in s.args:
            fails = [
                who for who in ("init", "doctor") if (found[who] == STARTS) != (real == STARTS)
            ]
            wrong = [who for who in fails if who in wrong]
        return [who for who in wrong if not self.meant(s, who, real, found[who])]
