"""A page in headless Chromium, spoken to over two pipes: no port, no driver, no library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time

from conformance import until

FOUND = shutil.which("chromium") or shutil.which("google-chrome")
ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--remote-debugging-pipe",
]


class Chromium:
    def __init__(self, folder, limit=60):
        self.limit, self.buf, self.n, self.faults, self.session = limit, b"", 0, [], None
        (theirs, self.to), (self.of, ours) = os.pipe(), os.pipe()
        far = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs, ours)]  # not 3 or 4 itself
        argv = [FOUND, *ARGS, f"--user-data-dir={folder}", "about:blank"]
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(
            argv,
            stdin=null,
            stdout=null,
            stderr=null,
            start_new_session=True,
            pass_fds=[3, 4],
            preexec_fn=lambda: [os.dup2(fd, n) for n, fd in enumerate(far, 3)],
        )
        for fd in theirs, ours, *far:
            os.close(fd)
        try:
            page = self("Target.createTarget", url="about:blank")["targetId"]
            self.session = self("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            for domain in "Page", "Runtime", "Log":
                self(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __call__(self, method, **params):
        self.n += 1
        say = {"id": self.n, "method": method, "params": params}
        say |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(say).encode() + b"\0")
        while (got := self.next()).get("id") != self.n:
            pass
        if "error" in got:
            raise RuntimeError(f"{method}: {got['error']['message']}")
        return got["result"]

    def next(self):
        """The next message; what a script complains of is kept."""
        end = time.monotonic() + self.limit
        while b"\0" not in self.buf:
            if not select.select([self.of], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"chromium said nothing for {self.limit} s")
            if not (more := os.read(self.of, 1 << 20)):
                raise EOFError(f"chromium ended with {self.process.wait()}")
            self.buf += more
        line, _, self.buf = self.buf.partition(b"\0")
        said = json.loads(line)
        match said.get("method"):
            case "Runtime.exceptionThrown":
                d = said["params"]["exceptionDetails"]
                self.faults.append(d.get("exception", d).get("description", d.get("text")))
            case "Log.entryAdded" if said["params"]["entry"]["level"] == "error":
                self.faults.append(said["params"]["entry"]["text"])
            case "Network.requestWillBeSent":
                self.faults.append(said["params"]["request"]["url"])
        return said

    def open(self, path, width, height=900, dark=False):
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self("Emulation.setDeviceMetricsOverride", **size)
        self("Emulation.setEmulatedMedia", features=scheme)
        self("Page.navigate", url=f"file://{path}")
        self.wait("document.documentElement?.dataset.ready === ''")

    def js(self, expression):
        got = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in got:
            raise RuntimeError(f"{expression}: {got['exceptionDetails']}")
        return got["result"].get("value")

    def wait(self, condition):
        if not until(lambda: self.js(condition), self.limit):
            raise TimeoutError(f"{condition} in {self.limit} s; the page said {self.faults}")

    def key(self, key):
        code = {"/": 191, "Enter": 13, "ArrowDown": 40, "Escape": 27, "Tab": 9}[key]
        text = {"Enter": "\r", "/": "/"}.get(key)
        what = {"key": key, "windowsVirtualKeyCode": code} | ({"text": text} if text else {})
        self("Input.dispatchKeyEvent", type="keyDown", **what)
        self("Input.dispatchKeyEvent", type="keyUp", key=key)

    def shoot(self, path, whole=False):
        got = self("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(got["data"]))

    def close(self):
        for fd in self.to, self.of:
            os.close(fd)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
