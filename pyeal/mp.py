"""The message channel between the processes of one prefix: datagrams on sockets in the runtime
directory. common/eal_common_proc.c

The primary's socket is mp_socket, a secondary's mp_socket_<pid>_<tsc>. One thread receives; what
does not fit is logged and dropped, and the channel lives on.
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

from . import libc
from .errors import EalError
from .files import DirectoryLock, discard, why_untrusted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from .releases import Release

    Action = Callable[[bytes], bytes | None]

MSG, REQ, REP, IGN = range(4)
PARAM = 256
TIMEOUT = 5.0  # seconds a peer has for an answer
PULSE = 0.1  # seconds after which a peer that has not answered yet is looked at: does it live
BACKLOG = 256  # messages kept while a request is under way; more are dropped
SETTLE, PEEK = 0.25, 0.005  # seconds until a primary watches who lives; between looks until then


class Message:
    """One datagram: kind, name, parameters, and the name of the socket it came from."""

    __slots__ = ("kind", "name", "param", "sender")

    def __init__(self, kind: int, name: str, param: bytes, sender: str = "") -> None:
        self.kind, self.name, self.param, self.sender = kind, name, param, sender


class Wire:
    """How a release lays a message out: 332 bytes, or 340 from 25.11 on."""

    def __init__(self, release: Release) -> None:
        self.size, self.fds = release.message_size, release.message_fds
        pad = "4x" if self.size == 340 else ""
        self.fields = Struct(f"<i{pad}64sii{PARAM}s{pad}")

    def encode(self, m: Message) -> bytes:
        return self.fields.pack(m.kind, m.name.encode(), len(m.param), 0, m.param)

    def decode(self, data: bytes, sender: str) -> Message:
        """ValueError for what is not a message."""
        if len(data) != self.size:
            raise ValueError(f"{self.size} bytes wanted, {len(data)} found")
        kind, name, n, fds, param = self.fields.unpack(data)
        if not 0 <= n <= PARAM:
            raise ValueError(f"invalid received data length {n}")
        if not 0 <= fds <= self.fds:
            raise ValueError(f"invalid number of fd's {fds}")
        text = name.partition(b"\0")[0].decode("ascii", "replace")
        return Message(kind, text, param[:n], sender)


class Channel:
    """This process's socket, its thread, and the requests it waits for.

    actions: what answers a message of a name; bytes become the reply of a request. Until `ready`
    a request that nobody answers is told to be ignored.
    """

    def __init__(
        self, directory: str, release: Release, name: str, log: Callable[[str, str], object]
    ) -> None:
        self.directory, self.log, self.wire = directory, log, Wire(release)
        self.path = f"{directory}/{name}"
        self.primary = name == "mp_socket"
        self.actions: dict[str, Action] = {}
        self.ready = False
        self._lives: set[int] = set()  # a descriptor of each secondary's process
        self._born = -1  # readable when there is a new socket
        self._died = False
        self._on_death: Callable[[], object] = lambda: None
        self._settles = 0.0  # when it will begin to watch; 0: it has, or will not
        self._waiting: dict[tuple[str, str], tuple[_thread.LockType, list[Message]]] = {}
        self._backlog: list[Message] = []
        self._thread = 0
        self._stopped = _thread.allocate_lock()
        if len(self.path) >= 108:
            raise EalError(
                EFAULT, "mp", f"a socket path of at most 107 bytes wanted, {self.path} found; "
                "choose a shorter --file-prefix",
            )  # fmt: skip
        bound = False
        try:
            self.sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        except OSError as e:
            raise self._failed(f"{e.strerror}") from None
        try:
            with DirectoryLock(directory, fcntl.LOCK_EX):
                try:
                    os.unlink(self.path)
                except FileNotFoundError:
                    pass
                self.sock.bind(self.path)
                bound = True
            self._wake, self._waker = os.pipe()
        except OSError as e:
            self.sock.close()
            if bound:
                discard(self.path)
            raise self._failed(f"{e.strerror}") from None
        self._poll = select.poll()
        self._poll.register(self.sock.fileno(), select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def start(self) -> None:
        """From now on messages are answered."""
        self._stopped.acquire()
        try:
            self._thread = _thread.start_new_thread(self._run, ())
        except RuntimeError as e:
            raise self._failed(f"{e}; see ulimit -u") from None

    def _failed(self, why: str) -> EalError:
        return EalError(EFAULT, "mp", f"failed to init mp channel: {self.path}: {why}")

    def close(self) -> None:
        """Ends the thread, after the message it works on, and removes the socket."""
        if self._waker < 0:
            return
        os.close(self._waker)
        self._waker = -1
        if self._thread and self._thread != _thread.get_ident():
            self._stopped.acquire(timeout=2 * TIMEOUT)
        self.sock.close()
        for fd in {self._wake, self._born, *self._lives} - {-1}:
            os.close(fd)
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    # who lives

    def watch(self, on_death: Callable[[], object]) -> None:
        """Once started, it calls that after the end of any secondary's process."""
        try:
            self._born = libc.inotify_init()
        except OSError as e:  # EMFILE: fs.inotify.max_user_instances
            return self._blind(e)
        self._poll.register(self._born, select.POLLIN)
        self._on_death, self._settles = on_death, time.monotonic() + SETTLE

    def _blind(self, e: OSError) -> None:
        self.log("DEBUG", f"Ends of secondaries are not noticed at once: {e.strerror}")

    def _settle(self) -> None:
        """Begins to watch once there is somebody, or SETTLE is over. When a process that watches a
        directory ends, the kernel often lets it wait for 8 ms: short lives are spared that."""
        try:
            if time.monotonic() < self._settles and not self._sockets():
                return
            libc.inotify_watch(self._born, self.directory)
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
            except OSError:  # it ended already, or lives in a PID namespace of its own
                self._died = True
            else:
                self._lives.add(fd)
                self._poll.register(fd, select.POLLIN)

    def _look(self, fd: int) -> None:
        if fd == self._born:
            for name in libc.inotify_created(fd):
                self._follow(name)
        elif fd in self._lives:
            self._lives.remove(fd)
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
        """Messages that are there, waiting for the first of them; replies are delivered."""
        found: list[Message] = []
        ready = self._poll.poll(None if timeout is None else max(1, int(timeout * 1000)))
        for fd, _ in ready:
            self._look(fd)
        if not any(fd == self.sock.fileno() for fd, _ in ready):
            return found
        try:
            space = _socket.CMSG_SPACE(4 * self.wire.fds)
            data, control, flags, sender = self.sock.recvmsg(
                self.wire.size + 1, space, _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return found
        _close_fds(control)
        try:
            if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
                raise ValueError("truncated msg")
            # whatever path the sender was bound by, its socket lies in this directory
            name = os.path.basename(sender) if isinstance(sender, str) else ""
            message = self.wire.decode(data, name)
        except ValueError as e:
            self.log("ERR", f"dropped a datagram from {sender or 'an unnamed socket'}: {e}")
            return found
        if message.kind in (REP, IGN):
            self._deliver(message)
        else:
            found.append(message)
        return found

    def _deliver(self, m: Message) -> None:
        waiting = self._waiting.get((m.sender, m.name))
        if waiting is None or waiting[1]:
            self.log("ERR", f"Drop mp reply: {m.name}")
            return
        waiting[1].append(m)
        waiting[0].release()

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
        except Exception as e:  # one peer's message must not end the service for all
            self.log("ERR", f"{m.name} from {m.sender}: {type(e).__name__}: {e}")
            return
        if m.kind == REQ and answer is not None:
            self._send(m.sender, Message(REP, m.name, answer))

    # sending

    def peers(self) -> list[str]:
        """Names of the sockets to speak to: all secondaries', or the primary's."""
        if not self.primary:
            return ["mp_socket"]
        with DirectoryLock(self.directory, fcntl.LOCK_SH):
            return self._sockets()

    def _sockets(self) -> list[str]:
        return sorted(n for n in os.listdir(self.directory) if n.startswith("mp_socket_"))

    def alone(self) -> bool:
        """Whether no other process listens; nor lives, where that is watched: one that detaches
        has no socket any more."""
        lives = select.poll()
        for fd in list(self._lives):
            lives.register(fd, select.POLLIN)
        if self._settles or len(lives.poll(0)) < len(self._lives):
            return False
        return not any(map(self._listens, self.peers()))

    def _trusted(self, path: str) -> bool:
        """Whether that is a socket of this user's, or root's, and no link to one elsewhere."""
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
        """Whether it is on its way. A dead secondary's socket file is removed."""
        if not peer.startswith("mp_socket"):
            return False  # a sender without an address of this prefix gets no answer
        path = f"{self.directory}/{peer}"
        if not self._trusted(path):
            return False
        try:
            self.sock.sendto(self.wire.encode(m), _socket.MSG_DONTWAIT, path)
        except ConnectionRefusedError:
            self.log("DEBUG", f"failed to send to ({path}): Connection refused")
            if self.primary:
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass
            return False
        except FileNotFoundError:
            return False
        except OSError as e:  # its queue is full: it is there, and will be found mute
            self.log("ERR", f"failed to send to ({path}): {e.strerror}")
        return True

    def send(self, name: str, param: bytes) -> int:
        """Tells all peers; to how many it went. rte_mp_sendmsg"""
        return sum(self._send(peer, Message(MSG, name, param)) for peer in self.peers())

    def request(
        self, name: str, param: bytes, timeout: float = TIMEOUT, mute: Collection[str] = ()
    ) -> dict[str, bytes | None]:
        """Asks all peers and waits: the answers by peer, None from one that did not give any.

        A peer that says "ignore me" or ends meanwhile does not count (EAL waits for the latter);
        the mute ones are told, not waited for. rte_mp_request_sync. EalError(EEXIST) while the
        same is asked already.
        """
        asked: dict[str, tuple[_thread.LockType, list[Message]]] = {}
        for peer in self.peers():
            if peer in mute:
                self._send(peer, Message(REQ, name, param))
                continue
            key = (peer, name)
            if key in self._waiting:
                raise EalError(EEXIST, "mp", f"{name} is asked of {peer} already")
            answered = _thread.allocate_lock()
            answered.acquire()
            self._waiting[key] = answered, []
            if self._send(peer, Message(REQ, name, param)):
                asked[peer] = self._waiting[key]
            else:
                del self._waiting[key]
        deadline = time.monotonic() + timeout
        gone = []
        try:
            for peer, (answered, _) in asked.items():
                if not self.wait(answered, deadline, peer):
                    gone.append(peer)
        finally:
            for peer in asked:
                del self._waiting[peer, name]
        return {
            peer: got[0].param if got else None
            for peer, (_, got) in asked.items()
            if (got[0].kind != IGN if got else peer not in gone)
        }

    def wait(self, answered: _thread.LockType, deadline: float, peer: str) -> bool:
        """Until the reply is there, or it is too late; False when the peer ended without one.

        The receiving thread itself receives meanwhile.
        """
        receives = self._thread == _thread.get_ident()
        while (left := deadline - time.monotonic()) > 0:
            pause = min(left, PULSE)
            if answered.acquire(timeout=0 if receives else pause):
                return True
            if receives and (more := self._receive(pause)):
                self._backlog += more
                del self._backlog[BACKLOG:]
            elif not answered.locked() or not self._listens(peer):
                return answered.acquire(timeout=0)
        return True


def _close_fds(control: list[tuple[int, int, bytes]]) -> None:
    """Descriptors that nobody asked for."""
    for level, kind, data in control:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            for (fd,) in (unpack_from("i", data, i) for i in range(0, len(data) & ~3, 4)):
                os.close(fd)
