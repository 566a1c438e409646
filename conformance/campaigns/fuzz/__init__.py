"""Bad files: seeds with bytes flipped, words changed, ends cut off, given to pyeal's readers.

Each answers with an EalError or with a value: never another exception, a crash, a hang, unbounded
memory, something left behind or a write to what it only reads. `ci/fuzz` runs it.
"""
