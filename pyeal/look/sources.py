"""Where the bytes of an EAL's shared memory come from: a directory, an archive, a process."""

from __future__ import annotations

import os
from errno import EFAULT, EINVAL, ENOENT, ESTALE

from pyeal import files, layout
from pyeal.errors import EalError
from pyeal.fbarray import file_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES = 64 << 20  # of one file, and of the arrays of an EAL together


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

    def __init__(self, path: str) -> None:
        self.path = path
        self.id = _id(os.stat(path))

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def open(self, name: str, limit: int = MOST_BYTES) -> int:
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


class Archive:
    """A runtime directory in a zip or tar file, compressed or not; inner: its path in there."""

    def __init__(self, path: str, inner: str | None = None) -> None:
        self.path = path
        self.files = _members(path)
        at = [n.rpartition("/")[0] for n in self.files if n.rpartition("/")[2] == "config"]
        if inner is None:
            inner = next(iter(at), "")
        self.inner = inner.strip("/")
        self.prefixes = at

    def names(self) -> list[str]:
        d = self.inner + "/" if self.inner else ""
        rest = (n[len(d) :] for n in self.files if n.startswith(d))
        return sorted(n for n in rest if n and "/" not in n)

    def read(self, name: str) -> bytes:
        name = f"{self.inner}/{name}".lstrip("/")
        if name not in self.files:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), f"{self.path}:{name}")
        return self.files[name]()

    def array(self, desc: layout.Fbarray) -> bytes:
        return self.read(array_file(desc))

    def array_bytes(self, desc: layout.Fbarray) -> int:
        return len(self.array(desc))


def _members(path: str) -> dict[str, Callable[[], bytes]]:
    """Return {name without ./: a function that reads it} of a tar or zip file.

    Raises Unreadable if it is neither.
    """
    import tarfile
    import zipfile

    if zipfile.is_zipfile(path):
        z = zipfile.ZipFile(path)
        return {n: lambda n=n: z.read(n) for n in z.namelist() if not n.endswith("/")}  # type: ignore[misc]
    try:
        t = tarfile.open(path)
        members = [m for m in t.getmembers() if m.isreg()]
    except (tarfile.TarError, EOFError) as e:
        raise Unreadable(path, "a directory, a tar or a zip file", str(e)) from None

    def take(m: tarfile.TarInfo) -> bytes:
        f = t.extractfile(m)
        return f.read() if f else b""

    return {m.name.removeprefix("./"): lambda m=m: take(m) for m in members}  # type: ignore[misc]


class ProcessMemory:
    """The memory of a process, read through /proc/PID/mem while the process runs on.

    config, config_size: where its config is, if it is an EAL that shares nothing.
    """

    def __init__(self, pid: int, config: int = 0) -> None:
        self.pid, self.config, self.config_size = pid, config, layout.CONFIG_SIZE
        self.fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.fd)

    def at(self, va: int, n: int) -> bytes:
        if n > MOST_BYTES or va >> 63:
            raise OSError(EFAULT, f"{n} bytes at {va:#x} are no memory", "mem")
        data = os.pread(self.fd, n, va)
        if len(data) != n:
            raise OSError(EFAULT, f"cannot read {n} bytes at {va:#x} of process {self.pid}", "mem")
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
