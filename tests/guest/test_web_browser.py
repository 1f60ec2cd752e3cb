# SPDX-License-Identifier: MIT
"""The page in a real browser: Debian's Chromium (only by bin/test --all)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.guest.browser import Browser, browser
from tests.guest.conftest import Place, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")

READ = """
import guestlib
guest = guestlib.attach()
disk = guest.disk("data")
block = guest.allocate(1 << 20)
while True:
    disk.read_into(block.memory, 0)
"""
HOLD = "import os; held = os.urandom({} << 20); print('up', flush=True); input()"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser(CHROMIUM) as one:
        yield one


@pytest.fixture
def page(place: Place, chromium: Browser) -> Iterator[Browser]:
    """The page, opened, of a daemon with two guests."""
    assert place.up("--http", "0", "--share-cpu", "0").returncode == 0
    running = [
        place.start(
            "run", "--name", name, "--max", "64M", "--", sys.executable, "-c",
            HOLD.format(mib), stdin=subprocess.PIPE,
        )
        for name, mib in (("a-large", 4), ("small", 20))
    ]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "up\n"
    chromium.go("about:blank")  # from the page of the last test, whose daemon is gone
    chromium.complaints.clear()
    chromium.requests.clear()
    chromium.resize(1200, 900)
    chromium.go(place.uvmm("web").stdout.strip())
    chromium.wait_for("document.querySelectorAll('#rows tr').length === 2")
    yield chromium
    for one in running:
        one.kill()
        one.communicate()


def names(page: Browser) -> list[str]:
    found: list[str] = page.ask(
        "[...document.querySelectorAll('#rows tr')].map((row) => row.dataset.name)"
    )
    return found


def focused(page: Browser) -> str:
    return str(page.ask(
        "document.activeElement.dataset.name ?? document.activeElement.id"
    ))


def choose(page: Browser, field: str) -> None:
    """Go to a field, of which what is typed takes the place."""
    page.ask(f"document.querySelector('{field}').focus()")
    page.ask(f"document.querySelector('{field}').select()")


def painted(page: Browser, canvas: str) -> int:
    """How many colours a canvas has."""
    return int(page.ask(
        f"(() => {{ const c = document.querySelector('{canvas}');"
        "const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "const seen = new Set(); for (let i = 0; i < data.length; i += 4)"
        "if (data[i + 3]) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);"
        "return seen.size; })()"
    ))


def test_it_shows_what_the_daemon_says(page: Browser, place: Place) -> None:
    assert "2 guests" in page.text("#state")
    assert "of 192M used" in page.text("#memory-legend")
    assert "token" not in page.ask("location.href")
    page.wait_for("document.querySelector('#memory-chart').ariaLabel.includes('own')")
    assert painted(page, "#memory-chart") > 3
    page.wait_for("document.querySelector('#stall-chart').ariaLabel.includes('small')")
    origin = page.ask("location.origin")
    assert all(url.startswith((origin, "about:", "data:")) for url in page.requests)
    # It is live: a guest that comes is shown, one that goes is not any more.
    third = place.start("run", "--name", "third", "--", "sleep", "100")
    page.wait_for("document.querySelectorAll('#rows tr').length === 3")
    third.terminate()
    third.communicate()
    page.wait_for("document.querySelectorAll('#rows tr').length === 2")
    assert page.complaints == []


def test_it_shows_what_disks_do(page: Browser, place: Place, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    reader = place.start(
        "run", "--name", "reader", "--max", "64M", "--disk", f"data={image},ro", "--",
        sys.executable, "-c", READ, stdin=subprocess.PIPE,
    )
    page.wait_for("document.querySelectorAll('#rows tr').length === 3")
    titles = page.ask("[...document.querySelectorAll('#titles th')].map((t) => t.innerText)")
    for column in ("Disk/s", "Low"):
        page.wait_for(
            f"parseFloat(document.querySelector('#rows tr[data-name=reader]')"
            f".children[{titles.index(column)}].innerText) > 0"
        )
    # All columns are seen at this width.
    assert page.ask("document.documentElement.scrollWidth <= window.innerWidth")
    reader.kill()
    reader.communicate()
    assert page.complaints == []


def test_it_is_used_by_keys_alone(page: Browser, place: Place) -> None:
    page.ask("document.querySelector('#titles button').focus()")
    page.press("Enter")
    assert names(page) == ["a-large", "small"]
    page.press("Enter")
    assert names(page) == ["small", "a-large"]
    assert page.ask("document.querySelector('#titles th').ariaSort") == "descending"
    for _ in range(40):
        if focused(page) in ("small", "a-large"):
            break
        page.press("Tab")
    page.press("Home")
    assert focused(page) == "small"
    page.press("ArrowDown")
    assert focused(page) == "a-large"
    page.press("ArrowUp", "Enter")
    assert focused(page) == "guest-title"
    page.wait_for("document.querySelector('#guest-title').innerText.startsWith('small: ')")
    page.wait_for("document.querySelector('#map').ariaLabel?.includes('resident')")
    # The map is a picture, of which each cell can be asked.
    assert painted(page, "#map") >= 2
    page.press("Tab", "Tab")
    assert focused(page) == "map"
    page.press("Home")
    assert page.text("#cell").startswith("pages 0 to ")
    page.press("End")
    assert f"to {(64 << 8) - 1}: " in page.text("#cell")
    page.press("Tab", "Tab", "Tab")
    assert page.ask("document.activeElement.form.id") == "restore"
    choose(page, "#size")
    page.press(*"50%", "Enter")
    page.wait_for("document.querySelector('#result').innerText.includes(' pages in ')")
    assert place.client.get("/v1/guests/small")["swapped_bytes"] > 8 << 20
    page.wait_for("document.querySelector('#map-legend').innerText.includes('swapped')")
    page.ask("document.querySelector('#restore button').focus()")
    page.press("Enter")
    page.wait_for("document.querySelector('#result').innerText.startsWith('restore: ')")
    wait_for(
        lambda: not place.client.get("/v1/guests/small")["swapped_bytes"], "the pages"
    )
    choose(page, "#size")
    page.press(*"lots", "Enter")
    page.wait_for("document.querySelector('#result').innerText.includes('is no size')")
    page.ask("document.querySelector('#set [name=shares]').focus()")
    page.press(*"77", "Enter")
    page.wait_for("document.querySelector('#result').innerText === 'set: done'")
    assert place.client.get("/v1/guests/small")["shares"] == 77
    page.press("Escape")
    assert page.ask("document.querySelector('#guest').hidden")
    assert focused(page) == "small"


def test_a_narrow_window(page: Browser) -> None:
    page.resize(320, 640)
    page.click("#rows tr")
    page.wait_for("document.querySelector('#map').ariaLabel?.includes('resident')")
    assert page.ask("document.documentElement.scrollWidth") <= 320
    assert page.ask(
        "[...document.querySelectorAll('th')].filter((one) => one.offsetWidth).length"
    ) == 5
    shown: list[float] = page.ask(
        "[...document.querySelectorAll('button, input, canvas, td')]"
        ".filter((one) => one.offsetWidth).map((one) => one.getBoundingClientRect().right)"
    )
    assert max(shown) <= 320


def test_without_the_token_it_shows_nothing(page: Browser, place: Place) -> None:
    address = page.ask("location.origin")
    token = place.run_dir.http_token.read_text().strip()
    page.ask("sessionStorage.clear()")
    page.go(f"{address}/?again")
    page.wait_for("document.querySelector('#login')?.hidden === false")
    assert page.ask("document.querySelector('#main').hidden")
    page.press(*"wrong", "Enter")
    page.wait_for("document.querySelector('#note').innerText.includes('missing or wrong')")
    assert page.ask("document.querySelector('#main').hidden")
    page.ask(f"document.querySelector('#token').value = {json.dumps(token)}")
    page.press("Enter")
    page.wait_for("document.querySelectorAll('#rows tr').length === 2")


def test_it_outlives_the_daemon_and_says_so(page: Browser, place: Place) -> None:
    port = place.client.get("/v1/health")["http_port"]
    assert place.uvmm("down").returncode == 0
    page.wait_for("document.querySelector('#note').innerText.includes('trying again')")
    assert place.up("--http", str(port)).returncode == 0
    # The new daemon has a new token.
    page.wait_for("!document.querySelector('#login').hidden")
    page.go(place.uvmm("web").stdout.strip())
    page.wait_for("document.querySelector('#nobody')?.hidden === false")
    assert page.text("#note") == ""


def test_what_the_daemon_says_is_text(page: Browser) -> None:
    """Names of guests cannot be so, but the page does not count on that."""
    page.ask("""
        globalThis.really = fetch;
        globalThis.fetch = async (path, given) => {
          const answer = await really(path, given);
          if (!path.startsWith("/v1/stats")) return answer;
          const told = await answer.json();
          told.guests[0].name = "<img src=x onerror='globalThis.broken = 1'>";
          told.machine.state = "<b>bold</b>";
          return new Response(JSON.stringify(told), { status: 200 });
        }; 0
    """)
    page.wait_for("document.querySelector('#rows').innerText.includes('onerror')")
    assert "<b>bold</b>" in page.text("#state")
    assert page.ask("document.querySelectorAll('img, b').length") == 0
    page.click("#rows tr td")
    page.wait_for("document.querySelector('#guest-title').innerText.length > 0")
    assert not page.ask("globalThis.broken ?? 0")
