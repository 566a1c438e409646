"""The report of a run: verdicts, the matrix of many runs, the pages people look at."""
