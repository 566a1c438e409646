"""Messages by which processes keep their mappings alike when a heap grows or shrinks.

A secondary that needs memory holds the heap's lock and the hotplug lock while it asks the primary.
The primary changes pages and heap, has every secondary map the change, and replies to all.
common/malloc_mp.c
"""

from __future__ import annotations

import os
import time
from errno import ENOTSUP
from struct import Struct

from .errors import EalError, Log
from .mp import TIMEOUT, Channel, Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from .releases import Release

    class Memory(Protocol):
        """The heaps, as far as the messages reach them."""

        def serve_growth(
            self, socket: int, page_sz: int, size: int, align: int, contig: bool, id: int
        ) -> None: ...
        def serve_release(self, va: int, length: int, id: int) -> None: ...

        segments: Any


ALLOC, FREE, SYNC = range(3)
SIZE, SUCCESS, FAIL = 80, 0, 1
# t; heap index, page_sz, elt_size, socket, flags, align, bound, contig; id; result
_ALLOC = Struct("<i4xQQQiIQQ?7xQi4x")
_FREE = Struct("<i4xQQ40xQi4x")  # t; addr, len; id; result
_HEAD = Struct("<i60xQi4x")  # t; id; result
# The new element is in the shared heap before the peers have mapped it: the primary replies, or
# rolls back, before the secondary that asked gives up.
SYNC_TIMEOUT = 0.8 * TIMEOUT
LOCK, LOCK_TIMEOUT, NOT_HELD = "pyeal_lock", 0.3, b"\0"  # between processes of pyeal alone
VDEV_SCAN_REP, VFIO_ERR = 3, 0xFF


def head(t: int, id: int, result: int = SUCCESS) -> bytes:
    """Return a message without a body: announcement or reply."""
    return _HEAD.pack(t, id, result)


def _unpack(param: bytes) -> tuple[int, int, int]:
    """Return kind, id and result of a message. ValueError."""
    if len(param) != SIZE:
        raise ValueError(f"malloc request: expected {SIZE} bytes, found {len(param)}")
    t, id, result = _HEAD.unpack(param)
    return t, id, result


def first_id() -> int:
    """Return a random number from which a process counts its requests, far from others'."""
    return int.from_bytes(os.urandom(8), "little") >> 2


class GrowthServer:
    """The primary's half: tells the secondaries of changes, and serves their requests."""

    def __init__(self, channel: Channel, memory: Memory, log: Log) -> None:
        self.channel, self.memory, self.log = channel, memory, log
        self.id = first_id()
        self.unresponsive: set[str] = set()  # peers that did not reply to the last announcement
        channel.actions["mp_malloc_request"] = self.serve
        channel.actions["eal_dev_mp_request"] = no_devices
        channel.actions["bus_vdev_mp"] = no_vdevs
        channel.actions["eal_vfio_mp_sync"] = no_vfio

    def announce(self, rollback: bool, id: int) -> bool:
        """Have the secondaries map what the lists say; return whether every living one did.

        A rollback does not wait for a peer that is unresponsive already. id 0 takes a new id.
        request_sync
        """
        if not id:
            self.id += 1
            id = self.id
        name = "mp_malloc_rollback" if rollback else "mp_malloc_sync"
        followed, self.unresponsive = True, self.unresponsive if rollback else set()
        replies = self.channel.request(name, head(SYNC, id), SYNC_TIMEOUT, {*self.unresponsive})
        for peer, reply in replies.items():
            if reply is None:
                self.log("ERR", f"{peer} has not responded")
                self.unresponsive.add(peer)
                followed = False
            elif len(reply) != SIZE or _unpack(reply) != (SYNC, id, SUCCESS):
                # EAL loses this reply, and leaves memory in the heap that the peer cannot access
                self.log("ERR", f"{peer} failed to synchronize")
                followed = False
        return followed

    def unheld(self, va: int) -> bool:
        """Return whether every process that may hold the lock at va replied that it does not.

        The C library does not know this request: with such a secondary the result is False.
        """
        try:
            replies = self.channel.request(LOCK, va.to_bytes(8, "little"), LOCK_TIMEOUT)
        except EalError:  # another thread asks
            return False
        return self.channel.are_all(p for p, reply in replies.items() if reply == NOT_HELD)

    def serve(self, param: bytes) -> None:
        """Carry out a secondary's request, and send the result to all. handle_request"""
        t, id, _ = _unpack(param)
        result = FAIL
        try:
            if t == ALLOC:
                _, _, page_sz, size, socket, _, align, _, contig, _, _ = _ALLOC.unpack(param)
                if page_sz <= 0 or page_sz & page_sz - 1 or align & align - 1:
                    raise ValueError(f"pages of {page_sz} bytes, alignment {align}")
                self.memory.serve_growth(socket, page_sz, size, max(align, 1), contig, id)
            elif t == FREE:
                _, va, length, _, _ = _FREE.unpack(param)
                self.memory.serve_release(va, length, id)
            else:
                raise ValueError(f"unexpected request {t} from a secondary")
            result = SUCCESS
        except (EalError, ValueError) as e:
            self.log("ERR", f"request of a secondary refused: {e}")
        self.channel.send("mp_malloc_response", head(t, id, result))


class GrowthClient:
    """A secondary's half: asks the primary for changes, and follows its announcements.

    follow: maps what the shared lists say and this process lacks, and unmaps the opposite.
    """

    def __init__(
        self, channel: Channel, release: Release, follow: Callable[[], object], log: Log
    ) -> None:
        self.channel, self.release, self.follow, self.log = channel, release, follow, log
        self.id = first_id()
        self._waiting: dict[int, Reply] = {}
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
        """Follow, and return whether that succeeded."""
        try:
            self.follow()
        except (EalError, OSError) as e:
            self.log("ERR", f"Could not follow the primary: {e}")
            return False
        return True

    def _response(self, param: bytes) -> None:
        _, id, result = _unpack(param)
        if id in self._waiting:
            self._waiting[id].deliver(result)

    def grow(self, heap: int, socket: int, page_sz: int, size: int, align: int, va: int) -> bool:
        """Return whether the primary added pages for size bytes; va: the heap's address (20.11)."""
        first = va if self.release.alloc_names_heap_by_address else heap
        return self._ask(_ALLOC, ALLOC, first, page_sz, size, socket, 0, align, 0, False)

    def release_pages(self, va: int, length: int) -> bool:
        """Return whether the primary freed pages that no heap contains any more."""
        return self._ask(_FREE, FREE, va, length)

    def _ask(self, kind: Struct, *words: int) -> bool:
        self.id += 1
        id, reply = self.id, Reply()
        self._waiting[id] = reply
        try:
            if not self.channel.send("mp_malloc_request", kind.pack(*words, id, 0)):
                self.log("ERR", "Cannot send message to primary")
                return False
            self.channel.wait(reply, time.monotonic() + TIMEOUT, "mp_socket")
        finally:
            del self._waiting[id]
        if reply.value is None:
            self.log("ERR", "Request timed out, or the primary has ended")
            # it may have died between linking new pages into the heap and having them mapped
            self._followed()
            return False
        return bool(reply.value == SUCCESS)


# requests of DPDK's libraries about devices, of which pyeal shares none


def no_devices(param: bytes) -> bytes:
    """eal_dev_mp_request: attaching or detaching a device is not supported."""
    return param[:132].ljust(132, b"\0") + (-ENOTSUP).to_bytes(4, "little", signed=True)


def no_vdevs(param: bytes) -> bytes:
    """bus_vdev_mp: the end of a scan that found no device."""
    return VDEV_SCAN_REP.to_bytes(4, "little") + bytes(68)


def no_vfio(param: bytes) -> bytes:
    """eal_vfio_mp_sync: no container."""
    return param[:4] + VFIO_ERR.to_bytes(4, "little") + param[8:12].ljust(4, b"\0")
