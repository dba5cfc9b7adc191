"""Drives headless Chromium over its debugging pipe: JSON messages that end with NUL, on file descriptors 3 and 4."""
from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 120.0    # a busy machine is slow; a browser that died is seen at once
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
         "ArrowDown": 40}
_TEXT = {"Enter": "\r", " ": " "}


def program():
    """The path of a Chromium, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page in a browser of its own, whose profile is thrown away."""

    def __init__(self, width=1280, height=900):
        self.requests, self.complaints = [], []
        self._number, self._buffer, self._answers = 0, b"", {}
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        commands_read, self._commands = os.pipe()
        self._replies, replies_write = os.pipe()
        argv = [program(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--lang=en-US",
                "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--force-color-profile=srgb",
                "--remote-debugging-pipe", f"--user-data-dir={self._profile}", "about:blank"]

        # The pipes must be 3 and 4; they are first moved out of the way, as they may be those already.
        script = f'exec 13<&{commands_read} 14>&{replies_write}; exec 3<&13 4>&14; exec "$@"'
        self._process = subprocess.Popen(["bash", "-c", script, "bash", *argv], pass_fds=(commands_read, replies_write),
                                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                         env={**os.environ, "LANG": "C.UTF-8", "HOME": self._profile})
        os.close(commands_read)
        os.close(replies_write)
        self._session = None
        target = next(one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def close(self):
        """End the browser and remove its profile."""
        os.close(self._commands)    # which ends it
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._replies)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method, **parameters):
        """One command, and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **({"sessionId": self._session} if self._session else {})}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        self._pump(lambda: self._number in self._answers, method)
        answer = self._answers.pop(self._number)
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def _pump(self, is_done, what):
        end = time.monotonic() + SECONDS
        while not is_done():
            ready, _, _ = select.select([self._replies], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._replies, 1 << 20) if ready else b""
            assert data, f"the browser did not answer {what}"
            *messages, self._buffer = (self._buffer + data).split(b"\0")
            for message in map(json.loads, messages):
                self._take(message)

    def _take(self, message):
        if "id" in message:
            self._answers[message["id"]] = message
            return
        method, parameters = message["method"], message["params"]
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console.{parameters['type']}: {parameters['args']}")
        elif method == "Log.entryAdded":
            self.complaints.append(str(parameters["entry"]))
        elif method == "Page.loadEventFired":
            self._loaded = True

    def open(self, path):
        """Open a file and wait until it is loaded."""
        self.requests, self.complaints, self._loaded = [], [], False
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._pump(lambda: self._loaded, "the page")
        self.settle()
        return self

    def run(self, script):
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self):
        """Wait until what the page does before its next two frames is done."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))")

    def key(self, name, times=1, shift=False):
        """Press a key, as a person would."""
        code = {"key": name, "code": "Space" if name == " " else name, "windowsVirtualKeyCode": _KEYS[name], "modifiers": 8 if shift else 0}
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown", text=_TEXT.get(name, ""), **code)
            self.call("Input.dispatchKeyEvent", type="keyUp", **code)
        self.settle()

    def resize(self, width, height, scale=1, mobile=False):
        """The window's size in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile)

    def prefer(self, theme):
        """What the system is said to prefer: `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.settle()

    def screenshot(self, clip=None):
        """PNG bytes of the window, or of `clip`: x, y, width, height of the page."""
        area = {"clip": dict(zip(("x", "y", "width", "height"), clip), scale=1), "captureBeyondViewport": True} if clip else {}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **area)["data"])
