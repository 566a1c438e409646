"""The message channel of a prefix: datagrams between sockets in the runtime directory.

The primary's socket is mp_socket, a secondary's mp_socket_<pid>_<tsc>. One thread receives. It logs
and drops what is no message, and continues. common/eal_common_proc.c
"""

from __future__ import annotations

import _socket  # the C half of socket, whose import costs more than all of an init
import _thread
import fcntl
import os
import select
import stat
import time
from errno import EEXIST, EFAULT
from struct import Struct, unpack_from

from . import inotify
from .errors import EalError, Log
from .files import DirectoryLock, discard, why_untrusted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any

    from .releases import Release

    Action = Callable[[bytes], bytes | None]

MSG, REQ, REP, IGN = range(4)
PARAM = 256
TIMEOUT = 5.0  # seconds that a peer has for a reply
PULSE = 0.1  # seconds between checks whether a peer that has not replied still listens
BACKLOG = 256  # messages kept during a request; more are dropped
SETTLE, PEEK = 0.25, 0.005  # seconds before a primary watches its directory; between polls before


class Message:
    """One datagram: kind, name, parameters, and the name of the sender's socket."""

    def __init__(self, kind: int, name: str, param: bytes, sender: str = "") -> None:
        self.kind, self.name, self.param, self.sender = kind, name, param, sender


class Reply:
    """The reply that a thread waits for. The first one counts."""

    def __init__(self) -> None:
        self.arrived = _thread.allocate_lock()
        self.arrived.acquire()
        self.value: Any = None

    def deliver(self, value: object) -> bool:
        """Wake the thread; return False if it has a reply already."""
        if self.value is not None:
            return False
        self.value = value
        self.arrived.release()
        return True


class Wire:
    """A release's layout of a message: 332 bytes, or 340 from 25.11 on."""

    def __init__(self, release: Release) -> None:
        self.size, self.fds = release.message_size, release.message_fds
        pad = "4x" if self.size == 340 else ""
        self.fields = Struct(f"<i{pad}64sii{PARAM}s{pad}")

    def encode(self, m: Message) -> bytes:
        return self.fields.pack(m.kind, m.name.encode(), len(m.param), 0, m.param)

    def decode(self, data: bytes, sender: str) -> Message:
        """Return the message. ValueError for other data."""
        if len(data) != self.size:
            raise ValueError(f"expected {self.size} bytes, found {len(data)}")
        kind, name, n, fds, param = self.fields.unpack(data)
        if not 0 <= n <= PARAM:
            raise ValueError(f"invalid received data length {n}")
        if not 0 <= fds <= self.fds:
            raise ValueError(f"invalid number of fd's {fds}")
        name = name.partition(b"\0")[0].decode("ascii", "replace")
        return Message(kind, name, param[:n], sender)


class Channel:
    """This process's socket, the thread that receives, and the requests under way.

    actions: by a message's name, the function that handles it; bytes that it returns are the reply.
    ready: before it is set, a request without an action is replied to with "ignore me".
    """

    def __init__(self, directory: str, release: Release, name: str, log: Log) -> None:
        self.directory, self.log, self.wire = directory, log, Wire(release)
        self.path = f"{directory}/{name}"
        self.primary = name == "mp_socket"
        self.actions: dict[str, Action] = {}
        self.ready = self._died = False
        self._lives: dict[int, int] = {}  # a pidfd of each secondary, and its pid
        self._born = -1  # inotify's descriptor: readable when there is a new socket
        self._on_death: Callable[[], object] = lambda: None
        self._settles = 0.0  # time at which to begin to watch; 0: watching, or never
        self._waiting: dict[tuple[str, str], Reply] = {}
        self._backlog: list[Message] = []
        self._thread, self._stopped = 0, _thread.allocate_lock()
        if len(self.path) >= 108:
            what, fix = f"Cannot create {self.path}", "choose a shorter --file-prefix"
            limit = "a path of at most 107 bytes"
            raise EalError(EFAULT, "mp", what, expected=limit, fix=fix, reason="path-too-long")
        try:
            self.sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        except OSError as e:
            raise self._failed(e.strerror) from None
        try:
            with DirectoryLock(directory, fcntl.LOCK_EX):
                discard(self.path)
                self.sock.bind(self.path)
            self._wake, self._waker = os.pipe()
        except OSError as e:
            self.sock.close()
            discard(self.path)
            raise self._failed(e.strerror) from None
        self._poll = select.poll()
        self._poll.register(self.sock.fileno(), select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def start(self) -> None:
        """Start the thread that handles messages."""
        self._stopped.acquire()
        try:
            self._thread = _thread.start_new_thread(self._run, ())
        except RuntimeError as e:
            raise self._failed(str(e), "raise ulimit -u") from None

    def _failed(self, found: str | None, fix: str = "") -> EalError:
        what = f"failed to init mp channel: {self.path}"
        return EalError(EFAULT, "mp", what, found=found or "", fix=fix, reason="channel")

    def close(self) -> None:
        """End the thread after the message that it handles, and remove the socket."""
        if self._waker < 0:
            return
        os.close(self._waker)
        self._waker = -1
        if self._thread and self._thread != _thread.get_ident():
            self._stopped.acquire(timeout=2 * TIMEOUT)
        self.sock.close()
        for fd in {self._wake, self._born, *self._lives} - {-1}:
            os.close(fd)
        discard(self.path)

    # which secondaries live

    def watch(self, on_death: Callable[[], object]) -> None:
        """Call on_death() after the end of any secondary's process. Before start()."""
        try:
            self._born = inotify.init()
        except OSError as e:  # EMFILE: fs.inotify.max_user_instances
            return self._blind(e)
        self._poll.register(self._born, select.POLLIN)
        self._on_death, self._settles = on_death, time.monotonic() + SETTLE

    def _blind(self, e: OSError) -> None:
        self.log("DEBUG", f"Ends of secondaries are not noticed at once: {e.strerror}")

    def _settle(self) -> None:
        """Begin to watch as soon as there is a secondary, or after SETTLE.

        A process that holds an inotify watch often takes 8 ms longer to exit: short ones have none.
        """
        try:
            if time.monotonic() < self._settles and not self._sockets():
                return
            inotify.watch(self._born, self.directory)
            for peer in self.peers():  # also those that ended before
                self._follow(peer)
        except OSError as e:  # ENOSPC: fs.inotify.max_user_watches
            self._blind(e)
        self._settles = 0.0

    def _follow(self, name: str) -> None:
        pid = name.removeprefix("mp_socket_").partition("_")[0]
        if name.startswith("mp_socket_") and pid.isdecimal():
            try:
                fd = os.pidfd_open(int(pid))
            except OSError:  # it has ended, or is in a PID namespace of its own
                self._died = True
            else:
                self._lives[fd] = int(pid)
                self._poll.register(fd, select.POLLIN)

    def _look(self, fd: int) -> None:
        if fd == self._born:
            for name in inotify.created(fd):
                self._follow(name)
        elif fd in self._lives:
            del self._lives[fd]
            self._poll.unregister(fd)
            os.close(fd)
            self._died = True

    # receiving

    def _run(self) -> None:
        try:
            while self._waker >= 0:
                found = self._receive(PEEK if self._settles else None)
                if self._settles and self._waker >= 0:
                    self._settle()
                for message in found:
                    self._handle(message)
                while self._backlog:
                    self._handle(self._backlog.pop(0))
                if self._died:
                    self._died = False
                    self._on_death()
        finally:
            self._stopped.release()

    def _receive(self, timeout: float | None) -> list[Message]:
        """Wait for a datagram; return it, unless it is a reply, which is delivered."""
        ready = self._poll.poll(None if timeout is None else max(1, int(timeout * 1000)))
        for fd, _ in ready:
            self._look(fd)
        if not any(fd == self.sock.fileno() for fd, _ in ready):
            return []
        try:
            space = _socket.CMSG_SPACE(4 * self.wire.fds)
            data, control, flags, sender = self.sock.recvmsg(
                self.wire.size + 1, space, _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return []
        _close_fds(control)
        try:
            if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
                raise ValueError("truncated msg")
            # whatever path the sender was bound by, its socket is in this directory
            name = os.path.basename(sender) if isinstance(sender, str) else ""
            message = self.wire.decode(data, name)
        except ValueError as e:
            self.log("ERR", f"dropped a datagram from {sender or 'an unnamed socket'}: {e}")
            return []
        if message.kind in (REP, IGN):
            self._deliver(message)
            return []
        return [message]

    def _deliver(self, m: Message) -> None:
        reply = self._waiting.get((m.sender, m.name))
        if reply is None or not reply.deliver(m):
            self.log("ERR", f"Drop mp reply: {m.name}")

    def _handle(self, m: Message) -> None:
        action = self.actions.get(m.name)
        if action is None:
            if m.kind == REQ and not self.ready:
                self._send(m.sender, Message(IGN, m.name, b""))
            else:
                self.log("ERR", f"Cannot find action: {m.name}")
            return
        try:
            answer = action(m.param)
        except Exception as e:  # a bad message must not end the thread
            self.log("ERR", f"{m.name} from {m.sender}: {type(e).__name__}: {e}")
            return
        if m.kind == REQ and answer is not None:
            self._send(m.sender, Message(REP, m.name, answer))

    # sending

    def peers(self) -> list[str]:
        """Return the names of the sockets to send to: all secondaries', or the primary's."""
        if not self.primary:
            return ["mp_socket"]
        with DirectoryLock(self.directory, fcntl.LOCK_SH):
            return self._sockets()

    def _sockets(self) -> list[str]:
        return sorted(n for n in os.listdir(self.directory) if n.startswith("mp_socket_"))

    def alone(self) -> bool:
        """Return whether no other process listens, nor lives if that is watched.

        A secondary that detaches has no socket any more before it ends.
        """
        return self.are_all(())

    def are_all(self, peers: Iterable[str]) -> bool:
        """Return whether these are all processes that listen, or live if that is watched.

        False before it is watched.
        """
        these = {*peers}
        pids = {int(name.split("_")[2]) for name in these}
        living = {pid for fd, pid in [*self._lives.items()] if not _ended(fd)}
        if self._settles or living - pids:
            return False
        return not any(self._listens(peer) for peer in self.peers() if peer not in these)

    def _trusted(self, path: str) -> bool:
        """Return whether it is a socket, not a link to one, of this user or root."""
        try:
            why = why_untrusted(os.lstat(path), stat.S_IFSOCK)
        except OSError:
            return False
        if why:
            self.log("ERR", f"nothing is sent to {path}: {why}")
        return not why

    def _listens(self, peer: str) -> bool:
        if not self._trusted(f"{self.directory}/{peer}"):
            return False
        probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            probe.connect(f"{self.directory}/{peer}")
        except OSError:
            return False
        finally:
            probe.close()
        return True

    def _send(self, peer: str, m: Message) -> bool:
        """Send, and return whether a process listens. Removes a dead secondary's socket file."""
        if not peer.startswith("mp_socket"):
            return False  # the sender has no address in this prefix
        path = f"{self.directory}/{peer}"
        if not self._trusted(path):
            return False
        try:
            self.sock.sendto(self.wire.encode(m), _socket.MSG_DONTWAIT, path)
        except ConnectionRefusedError:
            self.log("DEBUG", f"failed to send to ({path}): Connection refused")
            if self.primary:
                discard(path)
            return False
        except FileNotFoundError:
            return False
        except OSError as e:  # its queue is full: it lives, and will be unresponsive
            self.log("ERR", f"failed to send to ({path}): {e.strerror}")
        return True

    def send(self, name: str, param: bytes) -> int:
        """Send to all peers, and return to how many. rte_mp_sendmsg"""
        return sum(self._send(peer, Message(MSG, name, param)) for peer in self.peers())

    def request(
        self, name: str, param: bytes, timeout: float = TIMEOUT, unresponsive: Collection[str] = ()
    ) -> dict[str, bytes | None]:
        """Send to all peers and wait; return the replies by peer, None after the timeout.

        Left out are peers that reply "ignore me" or end meanwhile (EAL waits for the latter), and
        the unresponsive ones, which are told and not waited for. Raises EalError(EEXIST) while the
        same request is under way. rte_mp_request_sync
        """
        asked: dict[str, Reply] = {}
        for peer in self.peers():
            if peer in unresponsive:
                self._send(peer, Message(REQ, name, param))
                continue
            if (peer, name) in self._waiting:
                raise EalError(EEXIST, "mp", f"a request {name} to {peer} is under way")
            self._waiting[peer, name] = asked[peer] = Reply()
            if not self._send(peer, Message(REQ, name, param)):
                del self._waiting[peer, name], asked[peer]
        deadline = time.monotonic() + timeout
        try:
            alive = {p for p, reply in asked.items() if self.wait(reply, deadline, p)}
        finally:
            for peer in asked:
                del self._waiting[peer, name]
        return {
            peer: reply.value and reply.value.param
            for peer, reply in asked.items()
            if (reply.value.kind != IGN if reply.value else peer in alive)
        }

    def wait(self, reply: Reply, deadline: float, peer: str) -> bool:
        """Wait for a reply until the deadline; return False if the peer ended without one.

        The receiving thread itself receives meanwhile.
        """
        receives = self._thread == _thread.get_ident()
        while (left := deadline - time.monotonic()) > 0:
            pause = min(left, PULSE)
            if reply.arrived.acquire(timeout=0 if receives else pause):
                return True
            if receives and (more := self._receive(pause)):
                self._backlog += more
                del self._backlog[BACKLOG:]
            elif not reply.arrived.locked() or not self._listens(peer):
                return reply.arrived.acquire(timeout=0)
        return True


def _ended(pidfd: int) -> bool:
    """Return whether the process of a descriptor has ended."""
    ends = select.poll()
    ends.register(pidfd, select.POLLIN)
    return bool(ends.poll(0))


def _close_fds(control: list[tuple[int, int, bytes]]) -> None:
    """Close descriptors that came with a datagram: no message here has any."""
    for level, kind, data in control:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            for (fd,) in (unpack_from("i", data, i) for i in range(0, len(data) & ~3, 4)):
                os.close(fd)
