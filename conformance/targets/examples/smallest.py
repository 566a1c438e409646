"""The smallest target in Python: python smallest.py /opt/vendor/lib/librte_eal.so"""

import ctypes
import os
import sys

from pyeal.serve import serve


class Mine:
    target = "smallest"

    def __init__(self, path):
        self._lib = ctypes.CDLL(path)
        self._lib.rte_version.restype = ctypes.c_char_p
        self._lib.rte_eal_get_runtime_dir.restype = ctypes.c_char_p
        self.release = self._lib.rte_version().decode().removeprefix("DPDK ")

    def init(self, args):
        argv = [b"smallest", b"--no-pci", *map(str.encode, args)]
        self._argv = (ctypes.c_char_p * (len(argv) + 1))(*argv)  # EAL keeps pointers into it
        if self._lib.rte_eal_init(len(argv), self._argv) < 0:
            no = ctypes.c_int.in_dll(self._lib, "per_lcore__rte_errno").value
            raise OSError(no, f"rte_eal_init: {os.strerror(no)}")
        iova_mode = {1: "PA", 2: "VA"}[self._lib.rte_eal_iova_mode()]
        runtime_dir = self._lib.rte_eal_get_runtime_dir().decode()
        return {"ret": 0, "iova_mode": iova_mode, "runtime_dir": runtime_dir}

    def cleanup(self):
        return {"ret": self._lib.rte_eal_cleanup(), "errno": 0}


serve(Mine(sys.argv[1]))
