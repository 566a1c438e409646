"""The fake target with a fault: faulty_target.py FAULT"""

import os
import signal
import subprocess
import sys
import time

from fake_target import Fake

from pyeal.serve import serve


class Faulty(Fake):
    target = "faulty"

    def lists(self):
        print("about to fail", file=sys.stderr, flush=True)
        return FAULTS.get(sys.argv[1], lambda lists: lists)(super().lists())

    def cleanup(self):
        match sys.argv[1]:
            case "late-exit":
                os._exit(3)
            case "late-hang":
                time.sleep(1000)
            case "daemon":
                subprocess.Popen(
                    ["setsid", "sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
                )
        return super().cleanup()


FAULTS = {
    "lie": lambda lists: [m | {"base_va": m["base_va"] + 1} for m in lists],
    "hang": lambda _: time.sleep(1000),
    "abort": lambda _: os.abort(),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: os._exit(7),
    "raise": lambda _: {}["no such key"],
    "noise": lambda lists: os.write(3, b"EAL: hello\n") and lists,
    "print": lambda lists: print("EAL: usage") or lists,
}

if __name__ == "__main__":
    if sys.argv[1] == "mute":
        sys.exit("cannot load the library")
    serve(Faulty())
