"""Where the bytes of an EAL's shared memory come from: a directory, an archive, a process.

pyeal.look.core has the one for the core file of a process.
"""

from __future__ import annotations

import os
from errno import EFAULT, EINVAL, ENOENT, ESTALE

from pyeal import files, layout
from pyeal.errors import EalError
from pyeal.fbarray import file_size

MOST_BYTES = 64 << 20  # that are read of one file, and of the arrays of an EAL together
MOST_LENGTH = 1 << 30  # of a file of which only the first bytes are read


class Unreadable(EalError):
    """What was found is not what EAL writes."""

    def __init__(self, what: str, expected: str = "", found: str = "") -> None:
        super().__init__(EINVAL, "read", what, expected=expected, found=found)

    def __str__(self) -> str:
        return self.text


class Damaged(Unreadable):
    """EAL's memory in which a word contradicts the others; the text names the place."""

    def __init__(self, what: str, expected: str = "", found: str = "") -> None:
        super().__init__(f"damaged: {what}", expected, found)


class NotYet(Unreadable):
    """A config at the very start of its primary, before it names its release."""


def array_file(desc: layout.Fbarray) -> str:
    """Return the name of an array's file."""
    return f"fbarray_{desc.name.decode(errors='replace')}"


class Folder:
    """A runtime directory, or a copy of one.

    Any user may have made it, or may replace it while it is read: its files are opened relative to
    the directory that was looked at first, never through a link.
    """

    private = False

    def __init__(self, path: str) -> None:
        self.path = path
        self.id = _id(os.stat(path))

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def open(self, name: str, limit: int = MOST_LENGTH) -> int:
        """Return a descriptor to read a file of at most `limit` bytes. Raises OSError."""
        dir_fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _id(os.fstat(dir_fd)) != self.id:
                raise OSError(ESTALE, "it is another directory by now", self.path)
            return files.open_untrusted(name, limit, dir_fd)
        finally:
            os.close(dir_fd)

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return the first bytes of a file, at most `most`. Raises OSError."""
        return _head(self.open(name), most)

    def array(self, desc: layout.Fbarray) -> bytes:
        return self.read(array_file(desc), file_size(desc.len, desc.elt_sz))

    def array_bytes(self, desc: layout.Fbarray) -> int:
        """Return the length of an array's file. Raises OSError."""
        fd = self.open(array_file(desc))
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)


def read_file(path: str) -> bytes:
    """Return the content of a file that the user named: links are followed. Raises OSError."""
    return _head(files.open_untrusted(os.path.realpath(path), MOST_BYTES), MOST_BYTES)


def _head(fd: int, most: int) -> bytes:
    """Return the first bytes of a file and close it."""
    try:
        return os.pread(fd, min(os.fstat(fd).st_size, most), 0)
    finally:
        os.close(fd)


def _id(st: os.stat_result) -> tuple[int, int]:
    return st.st_dev, st.st_ino


class Memory:
    """The memory of one process, with the shared memory of its EAL in it.

    config, config_size: where `rte_mem_config` is. private: whether it is in no file, as that of an
    EAL that shares nothing.
    """

    private = True
    config, config_size = 0, layout.CONFIG_SIZE

    def some(self, va: int, n: int) -> bytes:
        """Return what can be read of n bytes at an address, from the first on. Raises OSError."""
        raise NotImplementedError

    def at(self, va: int, n: int) -> bytes:
        """Return n bytes at an address. Raises OSError if not all of them can be read."""
        if n > MOST_BYTES or va >> 63:
            raise OSError(EFAULT, f"{n} bytes at {va:#x} are no memory", "mem")
        data = self.some(va, n)
        if len(data) != n:
            raise OSError(EFAULT, f"cannot read {n} bytes at {va:#x} of {self}", "mem")
        return data

    def names(self) -> list[str]:
        return ["config"]

    def read(self, name: str) -> bytes:
        if name != "config":
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), name)
        return self.at(self.config, self.config_size)

    def array(self, desc: layout.Fbarray) -> bytes:
        return self.at(desc.data, file_size(desc.len, desc.elt_sz))

    def array_bytes(self, desc: layout.Fbarray) -> int:
        return 0  # memory has no length that could be seen


class ProcessMemory(Memory):
    """The memory of a process, read through /proc/PID/mem while the process runs on.

    config: where its config is, if it is an EAL that shares nothing.
    """

    def __init__(self, pid: int, config: int = 0) -> None:
        self.pid, self.config = pid, config
        self.fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def __str__(self) -> str:
        return f"process {self.pid}"

    def close(self) -> None:
        os.close(self.fd)

    def some(self, va: int, n: int) -> bytes:
        return os.pread(self.fd, n, va)
