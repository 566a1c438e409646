"""`python -m pyeal` is the command `pyeal`."""

from pyeal.cli import main

raise SystemExit(main())
