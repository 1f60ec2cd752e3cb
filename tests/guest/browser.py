# SPDX-License-Identifier: MIT
"""Debian's Chromium, headless, told what to do by its debugging protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

START_S = 60.0
WAIT_S = 20.0
ANSWER_S = 30.0
_CODES = {
    "Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37,
    "ArrowRight": 39, "Home": 36, "End": 35,
}


class Browser:
    """One tab; keeps what the page complained of and asked for."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link
        self._last = 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")

    def tell(self, method: str, **parameters: Any) -> Any:
        """Give a command; returns its result."""
        self._last += 1
        self._link.send(
            json.dumps({"id": self._last, "method": method, "params": parameters})
        )
        while True:
            told = json.loads(self._link.recv(timeout=ANSWER_S))
            if told.get("id") == self._last:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self._note(told)

    def _note(self, told: Any) -> None:
        parameters = told.get("params", {})
        match told.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.complaints.append(parameters["entry"]["text"])
            case "Runtime.consoleAPICalled" if parameters["type"] == "error":
                self.complaints.append(json.dumps(parameters["args"]))
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])

    def go(self, url: str) -> None:
        """Open an address."""
        self.tell("Page.navigate", url=url)

    def ask(self, script: str) -> Any:
        """Return the value of an expression of the page."""
        told = self.tell(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, (script, told)
        return told["result"].get("value")

    def text(self, selector: str) -> str:
        """Return what is shown by an element."""
        found = self.ask(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return str(found)

    def wait_for(self, script: str) -> Any:
        """Wait until an expression is true; returns its value."""
        until = time.monotonic() + WAIT_S
        while not (value := self.ask(script)):
            assert time.monotonic() < until, (script, self.ask("document.body.innerText"))
            time.sleep(0.05)
        return value

    def press(self, *keys: str) -> None:
        """Press keys."""
        for key in keys:
            if len(key) == 1:
                self.tell("Input.dispatchKeyEvent", type="char", text=key)
                continue
            given = {"key": key, "code": key, "windowsVirtualKeyCode": _CODES[key]}
            if key == "Enter":
                given["text"] = "\r"
            self.tell("Input.dispatchKeyEvent", type="keyDown", **given)
            self.tell("Input.dispatchKeyEvent", type="keyUp", **given)

    def click(self, selector: str) -> None:
        """Click on the middle of an element with the mouse."""
        box = self.ask(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.tell(
                "Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left",
                clickCount=1,
            )

    def resize(self, width: int, height: int) -> None:
        """Make the window as large as that."""
        self.tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=False,
        )

    def picture(self, path: Path) -> None:
        """Write what is shown, the whole page, to a file."""
        told = self.tell("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))


@contextmanager
def browser(chromium: str) -> Iterator[Browser]:
    """Run a browser of no past for as long as the block lasts."""
    home = Path(tempfile.mkdtemp(prefix="uvmm-test-browser-"))
    process = subprocess.Popen(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run", "--disable-extensions", "--disable-background-networking",
         "--remote-debugging-port=0", f"--user-data-dir={home}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    try:
        with connect(_tab(home), max_size=None) as link:
            yield Browser(link)
    finally:
        process.terminate()
        process.wait()
        _remove(home)


def _tab(home: Path) -> str:
    """Return the address of the tab's debugging protocol."""
    until = time.monotonic() + START_S
    port = home / "DevToolsActivePort"
    while True:
        with suppress(OSError, IndexError):
            number, path = port.read_text().split("\n")[:2]
            with connect(f"ws://127.0.0.1:{number}{path}", max_size=None) as link:
                link.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
                targets = json.loads(link.recv(timeout=ANSWER_S))["result"]["targetInfos"]
                page = next(one for one in targets if one["type"] == "page")
            return f"ws://127.0.0.1:{number}/devtools/page/{page['targetId']}"
        assert time.monotonic() < until, "the browser does not start"
        time.sleep(0.05)


def _remove(home: Path) -> None:
    """Its last processes may still write there."""
    for _ in range(50):
        shutil.rmtree(home, ignore_errors=True)
        if not home.exists():
            return
        time.sleep(0.1)
