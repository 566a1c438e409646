"""A process that speaks to EALs as a faulty secondary would: python peer.py RELEASE

No EAL: a socket of its own in the runtime directory, and messages laid out as the release has them.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import sys

from conformance.harness import decode
from pyeal.serve import serve

KINDS = "MSG", "REQ", "REP", "IGN"


class Peer:
    target = "peer"

    def __init__(self, release: str) -> None:
        self.release = release
        pad = "4x" if decode.release(release).wire["mp_socket"]["off_name"] == 8 else ""
        self._fields = struct.Struct(f"<i{pad}64sii256s{pad}")
        self._sock: socket.socket

    def open(self, run: str) -> str:
        """Binds a secondary's socket there, under the lock; answers its name."""
        name = f"mp_socket_{os.getpid()}_{os.urandom(5).hex()}"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        fd = os.open(run, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self._sock.bind(f"{run}/{name}")
        os.close(fd)
        return name

    def send(
        self, to: str, kind: str, name: str, param: str = "", length: int = -1, fds: int = 0
    ) -> None:
        """One message to a socket; length and fds as the header is to say, true or not."""
        data = bytes.fromhex(param)
        n = len(data) if length < 0 else length
        self.send_raw(to, self._fields.pack(KINDS.index(kind), name.encode(), n, fds, data).hex())

    def send_raw(self, to: str, hex: str) -> None:
        self._sock.sendto(bytes.fromhex(hex), to)

    def receive(self, wait: float) -> dict | None:
        """The next message, nothing if none comes in time."""
        if not select.select([self._sock], [], [], wait)[0]:
            return None
        data, _, _, sender = self._sock.recvmsg(4096, 4096)
        kind, name, n, _, param = self._fields.unpack(data)
        return {
            "kind": KINDS[kind],
            "name": name.partition(b"\0")[0].decode(),
            "param": param[:n].hex(),
            "sender": sender,
        }


if __name__ == "__main__":
    serve(Peer(sys.argv[1]))
