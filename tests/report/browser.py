"""A headless Chromium, driven through ChromeDriver's plain HTTP interface (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
_QUIET = ("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-sync", "--disable-dev-shm-usage", *_QUIET)
_KEYS = {"ArrowRight": "\ue014", "ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowDown": "\ue015", "End": "\ue010"}


class Browser:
    """One browser with one page; use it as a context manager.

    Args:
        folder: An empty folder for the profile.
        port: Where the driver listens.
    """

    def __init__(self, folder: Path, port: int) -> None:
        assert CHROMIUM
        assert DRIVER
        self._root = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen([DRIVER, f"--port={port}", "--silent"], stdout=subprocess.DEVNULL)
        self._wait()
        options = {"binary": CHROMIUM, "args": [*_FLAGS, f"--user-data-dir={folder}", "--window-size=1200,900"]}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def __enter__(self) -> Browser:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End browser and driver."""
        try:
            self._call("DELETE", self._session)
        finally:
            self._process.terminate()
            self._process.wait(timeout=20)

    def open(self, file: Path) -> None:
        """Open a page, and forget what the page before it has asked for."""
        self._do("url", {"url": "about:blank"})
        self.log("performance")
        self._do("url", {"url": file.as_uri()})

    def width(self, pixels: int) -> None:
        """Give the page a width, also below the least of a window."""
        size = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 600}
        self._do("goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})

    def media(self, name: str) -> None:
        """Lay the page out for a medium: "print", or "screen"."""
        self._do("goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {"media": name}})

    def run(self, script: str) -> Any:  # noqa: ANN401
        """Run JavaScript and return what it returns."""
        return self._do("execute/sync", {"script": script, "args": []})

    def press(self, *keys: str) -> None:
        """Press keys in whatever has the focus."""
        actions = [{"type": kind, "value": _KEYS[key]} for key in keys for kind in ("keyDown", "keyUp")]
        self._do("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def download_to(self, folder: Path) -> None:
        """Let the page write its downloads into a folder."""
        allowed = {"behavior": "allow", "downloadPath": str(folder)}
        self._do("goog/cdp/execute", {"cmd": "Browser.setDownloadBehavior", "params": allowed})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Return the entries of a log since it was last asked for."""
        found: list[dict[str, Any]] = self._do("se/log", {"type": kind})
        return found

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def pdf(self) -> bytes:
        """Print the page."""
        return base64.b64decode(self._do("print", {}))

    def _do(self, what: str, content: object) -> Any:  # noqa: ANN401
        return self._call("POST", f"{self._session}/{what}", content)

    def _call(self, method: str, path: str, content: object = None) -> Any:  # noqa: ANN401
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self._root + path, body, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)["value"]

    def _wait(self) -> None:
        for _ in range(200):
            try:
                self._call("GET", "/status")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
            else:
                return
        raise TimeoutError("the browser's driver did not start")
