"""The doors to files that several processes share, and that another user may have made.

Every shared file is opened here: a symbolic link is not followed, a pipe does not block, and the
descriptor is checked before anything is read. Errors are OSErrors that name the path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from .pauses import signals_allowed, signals_deferred


def open_shared(path: str, flags: int, dir_fd: int | None = None, check: bool = True) -> int:
    """Opens a regular file of root or of this user; O_CREAT makes it with mode 0600.

    The type and the owner are checked on the open descriptor. check=False saves that call where
    others_may_write() says that no other user can have made the file.
    """
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=dir_fd)
    except OSError as e:
        if e.errno != errno.ELOOP:
            raise
        text = "it is a symbolic link, which is not followed: remove it"
        raise OSError(errno.ELOOP, text, path) from None
    if check:
        try:
            if why := why_untrusted(os.fstat(fd), stat.S_IFREG):
                raise OSError(errno.EPERM, why, path)
        except OSError:
            os.close(fd)
            raise
    return fd


class closing:  # reads as a function: `with closing(open_shared(...)) as fd:`
    """Closes a descriptor at the end of a block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def read_shared(path: str, limit: int) -> bytes:
    """Returns the first `limit` bytes of such a file. Raises OSError."""
    with closing(open_shared(path, os.O_RDONLY)) as fd:
        return os.pread(fd, limit, 0)


def open_untrusted(
    path: str, limit: int, dir_fd: int | None = None, flags: int = os.O_RDONLY
) -> int:
    """Opens, with those flags, a regular file of at most `limit` bytes that any user may have made.

    open(2) of a device node can have effects of its own. An O_PATH descriptor has none: the file
    is checked through it, and the same inode is then opened through /proc/self/fd. Tools need this
    where they look into the mounts of other processes, in which any user can bind a device.

    Raises OSError: ELOOP for a link, EPERM for any other kind of file, EFBIG.
    """
    with closing(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)) as at:
        st = os.fstat(at)
        if stat.S_ISLNK(st.st_mode):
            raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed", path)
        if not stat.S_ISREG(st.st_mode):
            raise OSError(errno.EPERM, "it is not a regular file", path)
        if st.st_size > limit:
            text = f"expected at most {limit} bytes, found {st.st_size}"
            raise OSError(errno.EFBIG, text, path)
        try:
            return os.open(f"/proc/self/fd/{at}", flags | os.O_NONBLOCK)
        except OSError as e:
            raise OSError(e.errno, e.strerror, path) from None


def read_untrusted(path: str, limit: int, dir_fd: int | None = None) -> bytes:
    """Returns the content of such a file, at most `limit` bytes of it. Raises OSError."""
    with closing(open_untrusted(path, limit, dir_fd)) as fd:
        return os.pread(fd, limit, 0)  # no more, even if it has grown meanwhile


def why_untrusted(st: os.stat_result, kind: int) -> str:
    """Returns why a file must not be used, "" if it may: its type, or its owner.

    Only root and this process's user are trusted.
    """
    if stat.S_IFMT(st.st_mode) != kind:
        wanted = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFSOCK: "socket"}[kind]
        found = "a symbolic link" if stat.S_ISLNK(st.st_mode) else "something else"
        return f"a {wanted} wanted, {found} found: remove it"
    if st.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {st.st_uid}, who could change it: remove it, or chown it"
    return ""


def check_directory(path: str) -> None:
    """Raises OSError(EPERM) unless it is a directory of this user or of root, and no link to one.

    Its owner could put any file there for other users to write to.
    """
    if why := why_untrusted(os.lstat(path), stat.S_IFDIR):
        raise OSError(errno.EPERM, why, path)


def others_may_write(directory: int | str) -> bool:
    """Returns whether a user other than root and this one can make files in a directory."""
    st = os.stat(directory)
    return bool(st.st_mode & 0o022) or st.st_uid not in (0, os.geteuid())


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Writes data at an offset. Raises OSError(ENOSPC) if the file system has room for a part only.

    Written bytes have their blocks: a mapping of them cannot end in SIGBUS.
    """
    if (n := os.pwrite(fd, data, offset)) < len(data):
        text = f"{os.strerror(errno.ENOSPC)}: {len(data)} bytes wanted, room for {n} found"
        raise OSError(errno.ENOSPC, text)


def write_file(path: str, data: bytes) -> None:
    """Writes a shared file as a whole, with mode 0600, and cuts off longer old content.

    Raises OSError, and removes the file then, unless it could not be opened.
    """
    opened = closing(open_shared(path, os.O_RDWR | os.O_CREAT))
    try:
        with opened as fd:
            write_all(fd, data, 0)
            # truncated after the write: ext4 flushes a file that was truncated to nothing before
            os.ftruncate(fd, len(data))
    except OSError as e:
        discard(path)
        raise OSError(e.errno, e.strerror, path) from None


def discard(path: str) -> None:
    """Removes a file that a failed start made; an error here would hide the one to report."""
    try:
        os.unlink(path)
    except OSError:
        pass


class DirectoryLock(closing):
    """Holds a lock on a directory (LOCK_SH or LOCK_EX) for the length of a `with` block.

    The block gets the directory's descriptor. timeout: seconds to wait at most; then
    OSError(ETIMEDOUT). None waits indefinitely.
    """

    def __init__(self, path: str, kind: int = fcntl.LOCK_EX, timeout: float | None = None) -> None:
        self.path, self.kind, self.timeout = path, kind, timeout

    def __enter__(self) -> int:
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if self.timeout is not None:
                self._poll(self.timeout)
            # deferred handlers run only if the lock is not free
            elif not signals_deferred.pending_now() or not self._try():
                with signals_allowed():
                    fcntl.flock(self.fd, self.kind)
        except BaseException:
            os.close(self.fd)
            raise
        return self.fd

    def _try(self) -> bool:
        try:
            fcntl.flock(self.fd, self.kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _poll(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not self._try():
            if time.monotonic() > deadline:
                why = f"another process has had its lock for {timeout} s, see /proc/locks"
                raise OSError(errno.ETIMEDOUT, why, self.path)
            time.sleep(0.01)
