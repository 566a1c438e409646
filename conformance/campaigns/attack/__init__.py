"""Attacks and accidents: damaged files, hostile writers, interrupts, kills, hostile names.

Each part is a family of conformance/campaigns/fuzz/engine.py: trial number i of a seed is the same
in every run, a forked child makes it, and a death, a hang or a fault of a child is a finding with
that number. `ci/attack` runs all parts.
"""
