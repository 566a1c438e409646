"""Random situations: does the real rte_eal_init of a release start, and do doctor, plan and init
agree? `ci/rehearsal` runs it.

situation.py has the makers, world.py builds a situation in private namespaces and runs the four in
it, verdict.py compares them, differs.toml has the differences that are meant, with their reasons.
"""
