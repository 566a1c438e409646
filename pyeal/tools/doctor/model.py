"""What every check is given (Case) and what it reports (Finding)."""

from __future__ import annotations

from pyeal import builds, options, releases
from pyeal.errors import EalError
from pyeal.look.config import HeldConfig
from pyeal.look.process_view import ProcessView
from pyeal.tools import printable, steps
from pyeal.tools.dryrun import DryRun
from pyeal.tools.fixes import process_name as process_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OK, WARN, FAIL, UNKNOWN = "OK", "WARN", "FAIL", "UNKNOWN"
WORST = (OK, UNKNOWN, WARN, FAIL)  # the last one decides the state of a link


class Finding:
    """What one check found.

    state: OK, WARN, FAIL or UNKNOWN; text: one line.
    problems: ids of problems.py.
    wanted, found: the two sides of a check that failed; do: the command or the change that helps.
    harmless: it looks worse than it is; shown with --verbose.
    """

    __slots__ = ("do", "found", "harmless", "problems", "state", "text", "wanted")

    def __init__(
        self,
        state: str,
        text: str,
        *problems: int,
        wanted: str = "",
        found: str = "",
        do: str = "",
        harmless: bool = False,
    ) -> None:
        self.state, self.problems, self.harmless = state, problems, harmless
        # paths, mount options and commands of other users are in them
        self.text, self.wanted = printable(text), printable(wanted)
        self.found, self.do = printable(found), printable(do)

    def facts(self) -> dict[str, object]:
        """Return it as plain data, for JSON."""
        names = ("state", "text", "wanted", "found", "do", "problems", "harmless")
        return {name: getattr(self, name) for name in names}


def finding(facts: dict[str, Any]) -> Finding:
    """Return a Finding of its facts(), which were in a file."""
    words = {name: facts[name] for name in ("wanted", "found", "do", "harmless")}
    return Finding(facts["state"], facts["text"], *facts["problems"], **words)


class Case:
    """One start to examine: a host as a process sees it, EAL's arguments, a dry run with them."""

    def __init__(
        self, view: ProcessView, args: list[str], release: str | None, dry_run: DryRun | None = None
    ) -> None:
        self.release = releases.get(release or releases.DEFAULT)
        # a process that is named has a command line of its own
        own = [] if args or view.own or view.root else steps.args_of(view, self.release)
        self.of_process = bool(own)
        args = args or own
        self.view, self.args = view, args
        self.named = release is not None
        self.opts: options.Options | None = None
        self.refused: EalError | None = None  # the release does not accept the arguments
        self.pools: dict[int, dict[str, Any]] = {}  # filled by the check of the link `pool`
        self.config: HeldConfig | None = None
        self.config_error = ""  # why config could not be read
        try:
            self.opts = options.parse(args, self.release)
        except EalError as e:
            self.refused = e
        else:
            self.directory = view.runtime_dir(self.opts.file_prefix, self.release)
            try:
                self.config = view.config(self.directory)
                if self.config and self.config.abi:
                    view.primary_build = builds.facts(self.config.abi)
            except OSError as e:
                self.config_error = e.strerror or str(e)
        alive = bool(self.config and self.config.alive)
        kind = self.opts.proc_type if self.opts else "primary"
        self.secondary = kind == "secondary" or (kind == "auto" and alive)
        self.dry_run = None
        if not (self.secondary or self.refused):
            self.dry_run = dry_run or DryRun(args, release, view)
        self.error = self.dry_run.error if self.dry_run else None

    @property
    def stage(self) -> str | None:
        """The stage of rte_eal_init that fails."""
        e = self.refused or self.error
        return e.stage if e else None

    @property
    def limit(self) -> str | None:
        """The link whose limit ended the dry run."""
        return self.dry_run.binding_link if self.dry_run else None

    @property
    def o(self) -> options.Options:
        assert self.opts
        return self.opts

    @property
    def hugedirs(self) -> dict[int, str]:
        """Page size -> directory of its files, as the dry run found them."""
        return {i.page_sz: i.hugedir for i in self.dry_run.infos} if self.dry_run else {}

    @property
    def running(self) -> bool:
        """Whether the process to examine is the primary of this prefix and already running."""
        return bool(self.config and self.config.alive and self.config.owner == self.view.pid)

    @property
    def requested(self) -> int:
        """Bytes that -m or --socket-mem ask for."""
        return sum(self.o.socket_mem.values()) if self.o.socket_mem else self.o.memory

    def needed(self, page_sz: int) -> int:
        """The same in whole pages: at least the one of the service tables."""
        return max(-(-self.requested // page_sz), 1) * page_sz

    def failed_at(self, *links: str) -> bool:
        """Whether a limit of one of these links ended the dry run."""
        return bool(self.error and self.limit in links)

    def needs_pages(self) -> bool:
        return not (self.secondary or self.o.no_huge)


def state_of(findings: list[Finding]) -> str:
    """Return the state of a link: its worst finding's."""
    return max((f.state for f in findings), key=WORST.index, default=UNKNOWN)


def listed(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))
