# SPDX-License-Identifier: MIT
"""Balloons of unmodified programs, whose heap they take from, under a real daemon."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.guest.conftest import wait_for
from uvmm.errors import UvmmError

if TYPE_CHECKING:
    from tests.guest.conftest import Place

SEED = 5
# Writes, verifies and frees blocks of all sizes, from several threads, and forks: a child has
# what its parent had, and a heap of its own without a balloon.
PROGRAM = """
import hashlib, os, random, sys, threading, time

def block(chance):
    size = chance.choice((100, 5000, 70_000, 300_000, 900_000))
    data = bytearray(chance.randbytes(100) * (size // 100))
    return data, hashlib.md5(data).digest()

def churn(seed, until, blocks):
    chance = random.Random(seed)
    while time.monotonic() < until:
        if len(blocks) > 12 or (blocks and chance.random() < 0.4):
            data, was = blocks.pop(chance.randrange(len(blocks)))
            assert hashlib.md5(data).digest() == was, "a block has changed"
        else:
            blocks.append(block(chance))
    for data, was in blocks:
        assert hashlib.md5(data).digest() == was, "a block has changed"

def guarded(*of):
    try:
        churn(*of)
    except BaseException as error:
        print(error, flush=True)
        os._exit(1)

threading.stack_size(1 << 18)
kept = []
churn(0, time.monotonic() + 0.3, kept)
print("begins", flush=True)
for round in range(6):
    threads = [
        threading.Thread(target=guarded, args=(10 * round + at, time.monotonic() + 0.4, []))
        for at in range(3)
    ]
    for thread in threads:
        thread.start()
    child = os.fork()
    if not child:
        guarded(1, time.monotonic() + 0.2, kept)
        assert bytearray(8_000_000).count(0) == 8_000_000
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child found something wrong"
    for thread in threads:
        thread.join()
    # Where a balloon was there are zeros.
    assert bytearray(12_000_000).count(0) == 12_000_000
print("fine", flush=True)
"""


def test_heap_and_forks_under_balloons(served: Place) -> None:
    chance = random.Random(SEED)
    most = popped = 0
    with served.start(
        "run", "--name", "p", "--max", "96M", "--", sys.executable, "-c", PROGRAM
    ) as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == "begins\n"
        while guest.poll() is None:
            for now in served.client.get("/v1/guests"):
                most = max(most, now["ballooned_bytes"])
                popped += now["popped_pages"]
                size = f"{chance.choice((0, 20, 50, 65))}%"
                try:
                    served.client.post(f"/v1/guests/{now['name']}/balloon", {"size": size})
                except UvmmError:
                    continue  # it has ended, or not begun
            time.sleep(0.02)
        assert guest.stderr is not None
        assert (guest.stdout.read(), guest.stderr.read()) == ("fine\n", "")
        assert guest.returncode == 0
    assert most > 1 << 20
    assert not popped


def test_command_line(served: Place) -> None:
    with served.start("run", "--name", "p", "--max", "64M", "--", "cat", stdin=subprocess.PIPE):
        wait_for(
            lambda: any(g["balloon_able"] for g in served.client.get("/v1/guests")), "its agent"
        )
        said = served.uvmm("balloon", "p", "10M")
        assert re.fullmatch(r"asked p for a balloon of 10M; \S+ are in it\n", said.stdout)
        for size, why in (
            ("70%", r"44\.[78]M is more than the 41\.\dM that the balloon of p may be"),
            ("much", "size"), ("-1", "size"),
        ):
            said = served.uvmm("balloon", "p", "--", size)
            assert said.returncode != 0
            assert re.search(why, said.stderr), said.stderr
            assert said.stderr.count("\n") == 1
        said = served.uvmm("balloon", "nobody", "1M")
        assert said.returncode != 0
        assert "no guest 'nobody'" in said.stderr
        wait_for(lambda: ballooned(served) == 10 << 20, "what it was asked for")
        time.sleep(1)  # the policy, which has memory for it, does not let it go
        assert ballooned(served) == 10 << 20
        assert served.uvmm("balloon", "p", "0").returncode == 0
        wait_for(lambda: ballooned(served) == 0, "its end")


def ballooned(place: Place) -> int:
    return int(place.client.get("/v1/guests/p")["ballooned_bytes"])
