# SPDX-License-Identifier: MIT
"""A picture of a guest's pages, through the API."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.guest.conftest import wait_for
from uvmm.client import RefusedError

if TYPE_CHECKING:
    from tests.guest.conftest import Place

HOLD = "import sys; held = bytearray(b'abc' * (5 << 20)); print('up', flush=True); input()"


def map_at_rest(served: Place, cells: int) -> tuple[dict[str, Any], int]:
    """
    Return a map, and the swapped bytes that the figures told before it and after.

    Now and then the guest's own allocator looks after its memory, and loads some of it.
    """
    while True:
        before, told, after = (
            served.client.get(path)
            for path in ("/v1/guests/a", f"/v1/guests/a/map?cells={cells}", "/v1/guests/a")
        )
        if before["swapped_bytes"] == after["swapped_bytes"]:
            return told, before["swapped_bytes"]


def test_it_says_what_the_figures_say(served: Place) -> None:
    guest = served.start(
        "run", "--name", "a", "--max", "66M", "--share-group", "off", "--", sys.executable,
        "-c", HOLD, stdin=subprocess.PIPE,
    )
    assert guest.stdout is not None
    assert guest.stdout.readline() == "up\n"
    served.client.post("/v1/guests/a/reclaim", {"size": "10M"})
    for cells in (1, 100, 16384):
        told, swapped_bytes = map_at_rest(served, cells)
        assert (told["name"], told["cells"]) == ("a", cells)
        assert told["max_pages"] == 66 << 8
        sizes = [sum(cell) for cell in zip(*told["pages"].values(), strict=True)]
        assert sum(sizes) == told["max_pages"]
        assert max(sizes) - min(sizes) <= 1
        assert sizes == sorted(sizes, reverse=True)
        assert sum(told["pages"]["swapped"]) * 4096 == swapped_bytes
    guest.communicate("\n")


def test_what_cannot_be(served: Place) -> None:
    for cells in ("0", "-1", "16385", "x", "", "1.5", "9" * 30):
        with pytest.raises(RefusedError) as refused:
            served.client.get(f"/v1/guests/a/map?cells={cells}")
        assert refused.value.status == 422
    with pytest.raises(RefusedError, match="no guest"):
        served.client.get("/v1/guests/a/map")
    guest = served.start("run", "--heap", "none", "--name", "a", "--", "sleep", "100")
    wait_for(lambda: served.client.get("/v1/guests"), "the guest")
    with pytest.raises(RefusedError, match="not attached"):
        served.client.get("/v1/guests/a/map")
    guest.terminate()
    guest.communicate()
