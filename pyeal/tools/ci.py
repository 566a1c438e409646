"""`pyeal ci`: a job with hugepages for GitHub or GitLab, to copy."""

from __future__ import annotations

import shlex

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

TEXT = """Print a CI job to copy. It leases hugepages for the tests alone, checks before they run
whether EAL can start, and fails if pages are left behind. It needs root; public runners have no 1G
pages."""
EXAMPLES = """\
  pyeal ci github >.github/workflows/hugepages.yml
  pyeal ci gitlab --pages 2M:64 -- ctest          another command, another number of pages

exit code: 0; 2 for wrong arguments"""
TAKES_EAL_ARGS = True  # the command, after --

GITHUB = """\
name: hugepages
on: [push, pull_request]
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: pipx install %from%
%steps%
        if: always()"""
GITLAB = """\
hugepages:
  image: python:3
  tags: [privileged]  # a runner whose containers may be root of their host's hugepages
  before_script:
    - pip install %from%
  script:
%steps%"""
STEPS = (  # what for, the command
    (
        "with pages of its own, if EAL can start; fails if pages are left behind",
        "{sudo}pyeal lease {pages} -- sh -c {command}",
    ),
    ("nothing of a dead process is left", "{sudo}pyeal stale"),
)
SUDO = 'sudo "PATH=$PATH" '  # pipx's programs are in the user's


def arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal ci [options] {github,gitlab} [-- COMMAND ...]"
    p.add_argument("service", choices=("github", "gitlab"), help="whose configuration")
    p.add_argument("--pages", default="2M:256", help="as for pyeal lease (2M:256)")
    p.add_argument(
        "--from",
        dest="source",
        default="./pyeal",
        metavar="WHAT",
        help="from which pip installs pyeal: a checkout, wheel or URL (./pyeal)",
    )


def job(service: str, pages: str, command: list[str], source: str = "./pyeal") -> str:
    """YAML."""
    tests = f"pyeal doctor && {shlex.join(command or ['pytest'])}"
    words = {"pages": pages, "command": shlex.quote(tests)}
    steps = []
    for why, line in STEPS:
        if service == "github":
            line = line.format(sudo=SUDO, **words)
            steps += [f"      - name: {why}", f"        run: |\n          {line}"]
        else:
            steps += [f"    # {why}", f"    - |\n      {line.format(sudo='', **words)}"]
    text = {"github": GITHUB, "gitlab": GITLAB}[service].replace("%from%", shlex.quote(source))
    return text.replace("%steps%", "\n".join(steps))


def run(args: argparse.Namespace) -> int:
    print(job(args.service, args.pages, args.eal_args, args.source))
    return 0
