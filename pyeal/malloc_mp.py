"""How processes keep their memory in step: growth and shrinking asked for, done, and announced.

A secondary that needs memory holds the heap's lock and the hotplug lock while it asks; the primary
changes pages and heap for it, has every secondary bring its mappings in line, and answers.
common/malloc_mp.c
"""

from __future__ import annotations

import _thread
import os
import time
from errno import ENOTSUP
from struct import Struct

from .errors import EalError
from .mp import TIMEOUT, Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .heap import Heaps
    from .releases import Release

ALLOC, FREE, SYNC = range(3)
SUCCESS, FAIL = range(2)
SIZE = 80
# t; heap index, page_sz, elt_size, socket, flags, align, bound, contig; id; result
_ALLOC = Struct("<i4xQQQiIQQ?7xQi4x")
_FREE = Struct("<i4xQQ40xQi4x")  # t; addr, len; id; result
_HEAD = Struct("<i60xQi4x")  # t; id; result
# the element is in the shared heap before the peers have mapped it: answered or taken back before
# the asker gives up
BOUND = 0.8 * TIMEOUT
VDEV_SCAN_REP = 3
VFIO_ERR = 0xFF
_VDEV = Struct("<ii64x")


def head(t: int, id: int, result: int = SUCCESS) -> bytes:
    return _HEAD.pack(t, id, result)


def _unpack(param: bytes) -> tuple[int, int, int]:
    """Kind, id and result of a request. ValueError."""
    if len(param) != SIZE:
        raise ValueError(f"{SIZE} bytes of malloc request wanted, {len(param)} found")
    t, id, result = _HEAD.unpack(param)
    return t, id, result


def fresh_id() -> int:
    """Where a process starts to number its requests: others' numbers are far away."""
    return int.from_bytes(os.urandom(8), "little") >> 2


class Sync:
    """The primary's half: has all secondaries follow, and serves their requests."""

    def __init__(self, channel: Channel, heaps: Heaps, log: Callable[[str, str], object]) -> None:
        self.channel, self.heaps, self.log = channel, heaps, log
        self.id = fresh_id()
        self.mute: set[str] = set()  # peers that did not answer: a rollback does not wait for them
        channel.actions["mp_malloc_request"] = self.serve

    def announce(self, rollback: bool, id: int) -> bool:
        """Whether every living secondary has its mappings in line now; id 0 for a fresh one.

        request_sync
        """
        if not id:
            self.id += 1
            id = self.id
        name = "mp_malloc_rollback" if rollback else "mp_malloc_sync"
        good, self.mute = True, self.mute if rollback else set()
        answers = self.channel.request(name, head(SYNC, id), BOUND, {*self.mute})
        for peer, answer in answers.items():
            if answer is None:
                self.log("ERR", f"{peer} has not responded")
                self.mute.add(peer)
                good = False
            elif not _fine(answer, id):
                # EAL loses this answer, and leaves memory in the heap that the peer cannot see
                self.log("ERR", f"{peer} failed to synchronize")
                good = False
        return good

    def serve(self, param: bytes) -> None:
        """A secondary's request; the answer goes to all. handle_request"""
        t, id, _ = _unpack(param)
        try:
            if t == ALLOC:
                self._alloc(param, id)
            elif t == FREE:
                self._free(param, id)
            else:
                raise ValueError(f"unexpected request {t} from a secondary")
            result = SUCCESS
        except (EalError, ValueError) as e:
            self.log("ERR", f"request of a secondary refused: {e}")
            result = FAIL
        self.channel.send("mp_malloc_response", head(t, id, result))

    def _alloc(self, param: bytes, id: int) -> None:
        _, _, page_sz, size, socket, _, align, _, contig, _, _ = _ALLOC.unpack(param)
        if page_sz <= 0 or page_sz & page_sz - 1 or align & align - 1:
            raise ValueError(f"pages of {page_sz} bytes, alignment {align}")
        self.heaps.serve_growth(socket, page_sz, size, max(align, 1), contig, id)

    def _free(self, param: bytes, id: int) -> None:
        _, va, length, _, _ = _FREE.unpack(param)
        self.heaps.serve_release(va, length, id)


def _fine(answer: bytes, id: int) -> bool:
    if len(answer) != SIZE:
        return False
    return tuple(_HEAD.unpack(answer)) == (SYNC, id, SUCCESS)


class Asker:
    """A secondary's half: asks the primary, and follows what it announces.

    follow: brings this process's mappings in line with the shared lists.
    """

    def __init__(
        self,
        channel: Channel,
        release: Release,
        follow: Callable[[], object],
        log: Callable[[str, str], object],
    ) -> None:
        self.channel, self.release, self.follow, self.log = channel, release, follow, log
        self.id = fresh_id()
        self._waiting: dict[int, tuple[_thread.LockType, list[int]]] = {}
        channel.actions["mp_malloc_sync"] = self._sync
        channel.actions["mp_malloc_rollback"] = self._sync
        channel.actions["mp_malloc_response"] = self._response
        channel.actions["eal_dev_mp_request"] = no_devices

    def _sync(self, param: bytes) -> bytes:
        t, id, _ = _unpack(param)
        if t != SYNC:
            raise ValueError(f"unexpected request {t} from the primary")
        return head(SYNC, id, SUCCESS if self._followed() else FAIL)

    def _followed(self) -> bool:
        """Whether this process has mapped what the lists say."""
        try:
            self.follow()
        except (EalError, OSError) as e:
            self.log("ERR", f"Could not follow the primary: {e}")
            return False
        return True

    def _response(self, param: bytes) -> None:
        _, id, result = _unpack(param)
        if id in self._waiting:
            answered, got = self._waiting[id]
            if not got:
                got.append(result)
                answered.release()

    def grow(self, heap: int, socket: int, page_sz: int, size: int, align: int, va: int) -> bool:
        """Whether the primary made memory for size bytes; va: the heap's address (20.11)."""
        first = va if self.release.alloc_names_heap_by_address else heap
        self.id += 1
        ask = _ALLOC.pack(ALLOC, first, page_sz, size, socket, 0, align, 0, False, self.id, 0)
        return self._ask(ask, self.id)

    def release_pages(self, va: int, length: int) -> bool:
        self.id += 1
        return self._ask(_FREE.pack(FREE, va, length, self.id, 0), self.id)

    def _ask(self, param: bytes, id: int) -> bool:
        answered = _thread.allocate_lock()
        answered.acquire()
        got: list[int] = []
        self._waiting[id] = answered, got
        try:
            if not self.channel.send("mp_malloc_request", param):
                self.log("ERR", "Cannot send message to primary")
                return False
            self.channel.wait(answered, time.monotonic() + TIMEOUT, "mp_socket")
        finally:
            del self._waiting[id]
        if not got:
            self.log("ERR", "Request timed out, or the primary has ended")
            # it may have died between linking new pages into the heap and having them mapped
            self._followed()
            return False
        return got[0] == SUCCESS


# what else a DPDK process asks for: pyeal has no devices to share


def no_devices(param: bytes) -> bytes:
    """eal_dev_mp_request: attaching or detaching a device is not supported."""
    return param[:132].ljust(132, b"\0") + (-ENOTSUP).to_bytes(4, "little", signed=True)


def no_vdevs(param: bytes) -> bytes:
    """bus_vdev_mp: the end of a scan, and nothing was found."""
    return _VDEV.pack(VDEV_SCAN_REP, 0)


def no_vfio(param: bytes) -> bytes:
    """eal_vfio_mp_sync: no container."""
    return param[:4] + VFIO_ERR.to_bytes(4, "little") + param[8:12].ljust(4, b"\0")
