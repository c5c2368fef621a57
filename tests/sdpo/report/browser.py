"""A page in a real headless browser: Chromium, through its DevTools protocol."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT_SECONDS = 60


class Page:
    """One address, loaded. `errors` holds what its scripts threw and what the console calls an error."""

    def __init__(self, address: str, *, width: int = 1280, height: int = 900):
        self.errors: list[str] = []
        self._numbers = 0
        self._open = ExitStack()
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run")
        command = [CHROMIUM, *options, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._socket = self._open.enter_context(connect(self._target(), max_size=None))
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._call("Page.navigate", url=address)
        self.wait_for("document.body?.dataset.ready === 'yes'")

    def _target(self) -> str:
        """The web socket of its tab."""
        file = Path(self._profile.name) / "DevToolsActivePort"
        until = time.monotonic() + TIMEOUT_SECONDS
        while not (file.is_file() and file.read_text()):
            assert time.monotonic() < until, "Chromium did not start"
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{file.read_text().split()[0]}/json/list") as answer:
            return next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._numbers += 1
        self._socket.send(json.dumps({"id": self._numbers, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=TIMEOUT_SECONDS))
            if message.get("id") == self._numbers:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])

    def run(self, script: str) -> Any:
        """The value of an expression, or of the promise that it is."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        until = time.monotonic() + TIMEOUT_SECONDS
        while not self.run(condition):
            assert time.monotonic() < until, f"{condition}: {self.errors}"
            time.sleep(0.1)

    def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        self._call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def move_to(self, x: float, y: float) -> None:
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, file: Path) -> None:
        """Of the whole page."""
        picture = self._call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        file.write_bytes(base64.b64decode(picture["data"]))

    def close(self) -> None:
        self._open.close()
        self._process.terminate()
        self._process.wait(TIMEOUT_SECONDS)
        self._profile.cleanup()

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_) -> None:
        self.close()
