"""The smallest target: an EAL that has 64 kB and no pages. To begin from when writing your own."""

import ctypes
import mmap

from pyeal.serve import Process, serve

PAGE, N = 4096, 16


class Fake(Process):  # Process brings peek, poke and block
    target, release = "fake", "22.11.11"

    def init(self, args):
        if "--bad" in args:
            raise OSError(22, "invalid argument --bad")
        self._mem = mmap.mmap(-1, PAGE * N)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._mem))
        return {"ret": 0, "iova_mode": "VA", "runtime_dir": "/var/run/dpdk/fake"}

    def lists(self):
        return [
            {
                "index": 0,
                "name": "nohugemem",
                "base_va": self._base,
                "page_sz": PAGE,
                "socket_id": 0,
                "version": 0,
                "len": PAGE * N,
                "external": 0,
                "heap": 1,
                "n_segs": N,
                "count": N,
            }
        ]

    def segments(self):
        return [
            {
                "list": 0,
                "seg": i,
                "addr": self._base + i * PAGE,
                "len": PAGE,
                "iova": self._base + i * PAGE,
                "hugepage_sz": PAGE,
                "socket_id": 0,
                "nchannel": 0,
                "nrank": 0,
                "flags": 0,
            }
            for i in range(N)
        ]

    def cleanup(self):
        return {"ret": 0, "errno": 0}


if __name__ == "__main__":
    serve(Fake())
