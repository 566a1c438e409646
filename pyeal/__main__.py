"""`python -m pyeal` is the command `pyeal`."""

from pyeal.cli import program

raise SystemExit(program())
