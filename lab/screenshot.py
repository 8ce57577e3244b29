"""A picture of a page as a person would see it, by headless Chromium: for the README and the tests.

The Prefect UI is a single-page app that paints late and fades in, so the browser is driven over its
DevTools protocol (https://chromedevtools.github.io/devtools-protocol/) until the wanted words are there.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

from lab.errors import LabError

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",
    # Nothing of the picture may come from outside this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--remote-debugging-port=0",
)
POLL_S = 0.2
# The UI's pages fade in for some tenths of a second after their words are in the document.
SETTLE_S = 1.0
# Prefect's server on a busy SQLite refuses a form now and then: who filled it in presses the button again.
AGAIN_S = 20.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024


def screenshot(
    url: str,
    out_png: Path,
    *,
    wait_s: float = 180.0,
    expect: Sequence[str] = (),
    fill: Mapping[str, str] | None = None,
    click: Sequence[str] = (),
    size: tuple[int, int] = (1400, 1000),
) -> str:
    """Open `url`, write into the fields that `fill` names by their labels, click what is labelled as `click`
    says, wait for the texts of `expect`, take the picture. A form that is still there after AGAIN_S is sent
    once more.

    Returns the words on the page.

    Raises:
        LabError: no Chromium, or an expected text did not come within `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    with _browser(size, deadline) as page:
        page.call("Page.enable")
        page.call("Page.navigate", url=url)
        if fill:
            _until(partial(page.filled, fill), deadline, f"the fields {', '.join(fill)} do not fill", page)
        for label in click:
            _until(partial(page.click, label), deadline, f"there is nothing named '{label}' to click", page)
        if fill and expect:
            _send_again(page, fill, click, expect[0], deadline)
        for text in expect:
            _until(partial(page.shows, text), deadline, f"the text '{text}' is missing", page)
        _until(partial(page.shows, ""), deadline, "the page is empty", page)
        time.sleep(SETTLE_S)
        picture = page.call("Page.captureScreenshot", format="png")["data"]
        out_png.parent.mkdir(parents=True, exist_ok=True)
        out_png.write_bytes(base64.b64decode(picture))
        return page.text()


def _send_again(
    page: _Page, fill: Mapping[str, str], click: Sequence[str], sent: str, deadline: float
) -> None:
    until = min(deadline, time.monotonic() + AGAIN_S)
    while not page.shows(sent):
        if time.monotonic() > until:
            fields = ", ".join(fill)
            _until(partial(page.filled, fill), deadline, f"the fields {fields} do not fill again", page)
            for label in click:
                page.click(label)
            return
        time.sleep(POLL_S)


class _Page:
    """One tab over DevTools: commands go out numbered, answers are found by their number."""

    def __init__(self, socket: Connection, deadline: float) -> None:
        self._socket = socket
        self._deadline = deadline
        self._numbers = itertools.count(1)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            left_s = max(1.0, self._deadline - time.monotonic())
            answer = json.loads(self._socket.recv(timeout=left_s))
            if answer.get("id") == number:
                if "error" in answer:
                    raise LabError(f"Chromium refused {method}: {answer['error'].get('message')}")
                return dict(answer["result"])

    def evaluate(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def text(self) -> str:
        return str(self.evaluate("document.body ? document.body.innerText : ''") or "")

    def shows(self, text: str) -> bool:
        words = self.text()
        return bool(words.strip()) and text in words

    def filled(self, wanted: Mapping[str, str]) -> bool:
        """Whether every field held its value already: a page that is still loading empties them again."""
        return all([self._fill(label, value) for label, value in wanted.items()])

    def _fill(self, label: str, value: str) -> bool:
        # A field's label stands above it, in the nearest element around it that has words. The page's
        # framework looks at the event, and at what the element's own setter was given.
        script = f"""(() => {{
            const labelOf = field => {{
                let around = field.parentElement;
                while (around && !around.innerText?.trim()) {{ around = around.parentElement; }}
                return around?.innerText.trim().split('\\n')[0] ?? '';
            }};
            const found = [...document.querySelectorAll('textarea, input[type=text]')].find(field =>
                labelOf(field).split(' ')[0] === {json.dumps(label)});
            const held = found?.value === {json.dumps(value)};
            if (found && !held) {{
                const kind = found.tagName === 'TEXTAREA' ? HTMLTextAreaElement : HTMLInputElement;
                Object.getOwnPropertyDescriptor(kind.prototype, 'value').set.call(found, {json.dumps(value)});
                found.dispatchEvent(new Event('input', {{bubbles: true}}));
            }}
            return Boolean(held);
        }})()"""
        return bool(self.evaluate(script))

    def click(self, label: str) -> bool:
        # The deepest element with just this label: the UI's tabs are neither buttons nor links.
        script = f"""(() => {{
            const found = [...document.querySelectorAll('body *')]
                .filter(element => element.innerText?.trim() === {json.dumps(label)}).pop();
            if (found) {{ found.click(); }}
            return Boolean(found);
        }})()"""
        return bool(self.evaluate(script))


@contextmanager
def _browser(size: tuple[int, int], deadline: float) -> Iterator[_Page]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise LabError("Chromium is missing.", "Install it with: apt-get install chromium (make setup does).")
    with tempfile.TemporaryDirectory(prefix="haltuun-chromium-", ignore_cleanup_errors=True) as profile:
        window = f"--window-size={size[0]},{size[1]}"
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", window, "about:blank"],
            # Its own home: Chromium writes fonts' and certificates' caches there. What it makes in the
            # folder for temporary files it leaves behind when it is ended.
            env={**os.environ, "HOME": profile, "TMPDIR": profile},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            address = _page_socket(Path(profile), process, deadline)
            with connect(address, max_size=MAX_MESSAGE_BYTES, proxy=None) as socket:
                yield _Page(socket, deadline)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    # Asked first, so that it collects its own children; then the whole group, renderers included.
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _page_socket(profile: Path, process: subprocess.Popen[bytes], deadline: float) -> str:
    told = profile / "DevToolsActivePort"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LabError(f"Chromium ended at its start with exit code {process.returncode}.")
        try:
            port = int(told.read_text().split()[0])
            listing = f"http://127.0.0.1:{port}/json/list"
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(listing, timeout=5) as answer:
                pages = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
        except (OSError, ValueError, IndexError):
            pass  # not written yet, or not listening yet
        time.sleep(POLL_S)
    raise LabError("Chromium did not open its DevTools port in time.")


def _until(condition: Callable[[], bool], deadline: float, complaint: str, page: _Page) -> None:
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{complaint}; the page says: {' '.join(page.text().split())[:400]}")
        time.sleep(POLL_S)
