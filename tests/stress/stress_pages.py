# SPDX-License-Identifier: MIT
"""
The page stress: guests that know what each byte of theirs has to be, on a machine
that is too small for them, with their pages moved in and out and the guests killed.

Four kinds of threads act on one daemon: movers, which reclaim and restore; one that
looks for pages to share, if that is asked for; the
sampler, which checks the daemon's figures; and the caller's, which starts, kills and
replaces guests. The first thing wrong that any of them sees ends the run.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from uvmm import host
from uvmm.scratch import Scratch, ScratchError

from .findings import WrongError, check_figures, check_nothing_left
from .guest import StressedGuest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .counts import Counts
    from .settings import Settings

TICK_S = 0.05
SAMPLE_S = 0.1
PAGE_BYTES = 4096
GONE_WAIT_S = 20.0
LAST_CHECK_S = 300.0
SHARE_CPU_PERCENT = 50
IDLE_COST_PERCENT = 100  # idle pages are looked for as fast as that goes
PERCENTS = (1, 5, 10, 25, 50, 75, 100)
RESTORES_IN = 4  # of so many moves one is a restore
BALLOONS_IN = 3  # and one of so many sets a balloon
BALLOON_PERCENTS = (0, 5, 20, 40, 65)


class Stress:
    """One run on one daemon; `guests` is replaced, never changed, by the tending thread."""

    def __init__(self, scratch: Scratch, settings: Settings, counts: Counts) -> None:
        self._scratch = scratch
        self._settings = settings
        self._counts = counts
        self._daemon = host.process(scratch.daemon_pid)
        self._guests: tuple[StressedGuest, ...] = ()
        self._random = settings.random("tending")
        self._names = 0
        self._ended = threading.Event()
        self._wrong_lock = threading.Lock()
        self._wrong: list[str] = []  # guarded by _wrong_lock
        self.pids: set[int] = set()  # of all processes that were started

    def run(self, tick: Callable[[], None]) -> None:
        """
        Stress for as long as the settings say; calls *tick* all the while.

        Raises:
            WrongError: At the first thing wrong.
        """
        try:
            self._guests = tuple(self._start() for _ in range(self._settings.guests))
            for guest in self._guests:
                self._wait_started(guest)
            with self._helpers():
                self._tend(tick)
                self._finish(tick)
        except ScratchError as error:
            self._say_wrong(str(error))
        finally:
            self._ended.set()
            for guest in self._guests:
                guest.kill(launcher=True)
        self._raise_wrong()

    # --- guests, by the caller's thread ---

    def _start(self) -> StressedGuest:
        self._names += 1
        self._counts.add(guests=1)
        guest = StressedGuest(
            self._scratch, self._settings, name=f"pages-{self._names}",
            seed=self._random.randrange(1, 1 << 32),
        )
        self.pids.add(guest.launcher_pid)
        return guest

    def _wait_started(self, guest: StressedGuest) -> None:
        guest.wait_started()
        self.pids.add(guest.pid)

    def _tend(self, tick: Callable[[], None]) -> None:
        until = time.monotonic() + self._settings.seconds
        next_kill = time.monotonic() + self._pause()
        while (now := time.monotonic()) < until:
            self._watch(tick)
            if now >= next_kill:
                self._kill_one()
                next_kill = time.monotonic() + self._pause()

    def _watch(self, tick: Callable[[], None]) -> None:
        """Look after everyone once."""
        time.sleep(TICK_S)
        tick()
        self._raise_wrong()
        self._check_daemon()
        for guest in self._guests:
            if guest.ended() and not guest.condemned:
                guest.join(GONE_WAIT_S)
                raise WrongError(f"guest {guest.name} died: {guest.describe_end()}")

    def _pause(self) -> float:
        mean_s = self._settings.kill_every_s
        return self._random.expovariate(1 / mean_s) if mean_s > 0 else float("inf")

    def _kill_one(self) -> None:
        victim = self._random.choice(self._guests)
        launcher = self._random.random() < 0.3
        victim.kill(launcher=launcher)
        self._counts.add(**{"launcher_kills" if launcher else "guest_kills": 1})
        # Half of the time its successor comes while it goes.
        overlapping = self._random.random() < 0.5
        if not overlapping:
            self._see_off(victim)
        successor = self._start()
        if overlapping:
            self._see_off(victim)
        self._wait_started(successor)
        self._guests = tuple(
            successor if guest is victim else guest for guest in self._guests
        )

    def _see_off(self, victim: StressedGuest) -> None:
        """Check that nothing of a killed guest stays."""
        until = time.monotonic() + GONE_WAIT_S
        while left := self._left_of(victim):
            if time.monotonic() > until:
                raise WrongError(
                    f"{GONE_WAIT_S:.0f} s after guest {victim.name} was killed {left}"
                )
            time.sleep(TICK_S)
        if not victim.join(GONE_WAIT_S):
            raise WrongError(f"someone holds the output of the dead guest {victim.name}")
        if victim.found_wrong():
            raise WrongError(
                f"guest {victim.name}, before it was killed: {victim.describe_end()}"
            )
        self._counts.add(pages_written=victim.written, pages_verified=victim.verified)

    def _left_of(self, victim: StressedGuest) -> str:
        if not victim.ended():
            return f"its launcher {victim.launcher_pid} still runs"
        if host.process(victim.pid):
            return f"its process {victim.pid} still runs"
        if any(guest["name"] == victim.name for guest in self._scratch.figures()["guests"]):
            return "the daemon still has it"
        return ""

    def _finish(self, tick: Callable[[], None]) -> None:
        """Have all guests check all their pages, while these are still moved."""
        until = time.monotonic() + LAST_CHECK_S
        for guest in self._guests:
            guest.ask_to_end()
        while not all(guest.ended() for guest in self._guests):
            self._watch(tick)
            if time.monotonic() > until:
                slow = next(guest for guest in self._guests if not guest.ended())
                raise WrongError(f"guest {slow.name} does not end: {slow.describe_end()}")
        for guest in self._guests:
            guest.join(GONE_WAIT_S)
            if not guest.finished():
                raise WrongError(f"guest {guest.name} ended badly: {guest.describe_end()}")
            self._counts.add(pages_written=guest.written, pages_verified=guest.verified)
        self._guests = ()

    def running_pages(self) -> tuple[int, int]:
        """Return the pages written and verified by guests that run still."""
        guests = self._guests
        return sum(guest.written for guest in guests), sum(guest.verified for guest in guests)

    # --- movers and the sampler, threads of their own ---

    @contextmanager
    def _helpers(self) -> Iterator[None]:
        works: list[Callable[[], None]] = [self._sample]
        works += [self._mover(number) for number in range(self._settings.movers)]
        works += [self._share] * self._settings.share
        threads = [threading.Thread(target=self._guarded, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def _guarded(self, work: Callable[[], None]) -> None:
        while not self._ended.is_set():
            try:
                work()
            except (WrongError, ScratchError) as error:
                self._say_wrong(str(error))
                return

    def _sample(self) -> None:
        self._ended.wait(SAMPLE_S)
        figures = self._scratch.figures()
        check_figures(figures)
        ballooned_bytes = sum(guest["ballooned_bytes"] for guest in figures["guests"])
        self._counts.add(samples=1)
        self._counts.most(most_ballooned=ballooned_bytes // PAGE_BYTES)

    def _mover(self, number: int) -> Callable[[], None]:
        random = self._settings.random(f"mover {number}")

        def move() -> None:
            self._ended.wait(random.choice((0.0, 0.0, 0.002, 0.02)))
            guest = random.choice(self._guests or (None,))
            percent = 0 if random.randrange(RESTORES_IN) == 0 else random.choice(PERCENTS)
            if guest is None:
                self._ended.wait(TICK_S)
            elif random.randrange(BALLOONS_IN) == 0:
                self._balloon(guest, random.choice(BALLOON_PERCENTS))
            else:
                self._move(guest, percent)

        return move

    def _move(self, guest: StressedGuest, percent: int) -> None:
        """Reclaim so much of a guest, or restore it if that is nothing."""
        try:
            if percent:
                self._counts.add(
                    reclaims=1, pages_out=self._scratch.reclaim(guest.name, percent).pages
                )
            else:
                self._counts.add(restores=1, pages_in=self._scratch.restore(guest.name).pages)
        except ScratchError:
            # It may have been killed meanwhile; tending will see if it died of itself.
            if guest.busy and not guest.ends_soon():
                raise

    def _balloon(self, guest: StressedGuest, percent: int) -> None:
        """Have it take free blocks, or give them up; what it needs it takes back by itself."""
        try:
            self._scratch.balloon(guest.name, percent)
            self._counts.add(balloons=1)
        except ScratchError:
            if guest.busy and not guest.ends_soon():
                raise

    def _share(self) -> None:
        self._ended.wait(TICK_S)
        self._counts.add(passes=1, pages_shared=self._scratch.share().pages)

    # --- findings ---

    def _check_daemon(self) -> None:
        if self._daemon is None or not self._daemon.alive():
            log = ""
            with suppress(OSError):
                log = (self._scratch.run_dir / "daemon.log").read_text()[-2000:]
            raise WrongError(f"the daemon died; the end of its log:\n{log}")

    def _say_wrong(self, what: str) -> None:
        with self._wrong_lock:
            self._wrong.append(what)

    def _raise_wrong(self) -> None:
        with self._wrong_lock:
            first = self._wrong[0] if self._wrong else None
        if first is not None:
            self._check_daemon()
            raise WrongError(first)


def stress(
    settings: Settings, counts: Counts, show: Callable[[tuple[int, int]], None]
) -> None:
    """
    Run the stress on a daemon of its own.

    Args:
        settings: What to do.
        counts: What was done is added to it.
        show: Called often, with the pages that running guests wrote and verified.

    Raises:
        WrongError: At the first thing wrong, with the report.
        ScratchError: If the daemon cannot be started.
    """
    with Scratch(
        purpose="pages", memory_bytes=settings.memory_bytes, swap_bytes=settings.swap_bytes,
        memory_via=settings.memory_via,
        share_cpu=SHARE_CPU_PERCENT if settings.share else None,
        idle_cost=IDLE_COST_PERCENT,
    ) as scratch:
        run = Stress(scratch, settings, counts)
        run.run(lambda: show(run.running_pages()))
        _take_down(scratch, run.pids)


def _take_down(scratch: Scratch, pids: set[int]) -> None:
    """End the daemon in good order, before the scratch's own cleaning could help it."""
    run_dir, swap_file = scratch.run_dir, scratch.swap_file
    down = subprocess.run(
        ["bin/uvmm", "down"], env={**os.environ, "UVMM_RUN_DIR": str(run_dir)},
        capture_output=True, text=True, check=False,
    )
    if down.returncode:
        raise WrongError(f"uvmm down: status {down.returncode}: {down.stderr.strip()}")
    check_nothing_left(run_dir, swap_file, pids)
