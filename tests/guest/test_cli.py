# SPDX-License-Identifier: MIT
"""The command line against real daemons."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.guest.conftest import (
    MEMORY_BYTES,
    SWAP_BYTES,
    UVMM,
    WAIT_S,
    Place,
    copied,
    wait_for,
)
from uvmm import host, machine_settings
from uvmm.errors import UvmmError
from uvmm.rundir import read_record
from uvmm.scratch import stored_and_held

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN_COST_S = 0.5


def assert_refused(done: subprocess.CompletedProcess[str], words: str, status: int = 1) -> None:
    """One line of error, no traceback, the status."""
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("uvmm: ")
    assert done.stderr.count("\n") == 1


def guest_names(place: Place) -> list[str]:
    return [guest["name"] for guest in place.client.get("/v1/guests")]


def kernel_used_bytes(place: Place) -> int:
    """What the kernel says that machine memory and the daemon hold."""
    lines = Path(f"/proc/{place.daemon_pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    resident = sum(int(status[field].split()[0]) for field in ("RssAnon", "RssFile"))
    space = os.statvfs(place.run_dir.path / "machine")
    return resident * 1024 + (space.f_blocks - space.f_bfree) * space.f_frsize


class TestDaemon:
    def test_up_serves_and_down_leaves_nothing(self, place: Place) -> None:
        done = place.up()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        pid = place.daemon_pid
        assert place.client.get("/v1/health")["pid"] == pid
        assert place.run_dir.control_socket.stat().st_mode & 0o777 == 0o600
        assert place.swap.stat().st_size >= SWAP_BYTES
        done = place.uvmm("down")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert host.process(pid) is None
        assert list(place.path.iterdir()) == []
        assert host.mounts_below(place.path) == []

    def test_sigterm_leaves_nothing_either(self, served: Place) -> None:
        os.kill(served.daemon_pid, signal.SIGTERM)
        wait_for(lambda: not list(served.path.iterdir()), "the end of the daemon")
        assert host.mounts_below(served.path) == []

    def test_a_run_directory_with_something_in_it_stays(self, place: Place) -> None:
        place.run_dir.path.mkdir()
        kept = place.run_dir.path / "kept"
        kept.touch()
        assert place.up().returncode == 0
        assert place.uvmm("down").returncode == 0
        assert list(place.run_dir.path.iterdir()) == [kept]

    def test_a_second_daemon_is_refused(self, served: Place) -> None:
        assert_refused(served.up(), "already serves")
        assert served.uvmm("stats").returncode == 0

    def test_two_at_once_give_one(self, place: Place) -> None:
        starts = [place.start("up", "--memory", "64M", "--swap-size", "0") for _ in range(3)]
        codes = sorted(start.wait() for start in starts)
        assert codes == [0, 1, 1]
        for start in starts:
            start.communicate()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_up_that_is_interrupted_leaves_no_daemon(self, place: Place, number: int) -> None:
        start = place.start("up", "--memory", "64M", "--swap-size", "0")
        wait_for(place.run_dir.path.exists, "the beginning of a daemon")
        start.send_signal(number)
        assert start.wait(timeout=30)
        start.communicate()
        wait_for(lambda: not list(place.path.iterdir()), "the end of the daemon")
        assert host.mounts_below(place.path) == []

    def test_foreground(self, place: Place) -> None:
        daemon = place.start("up", "--foreground", "--memory", "64M", "--swap-size", "0")
        wait_for(place.run_dir.pid.exists, "the daemon")
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(timeout=30) == 0
        daemon.communicate()
        assert not place.run_dir.path.exists()

    @pytest.mark.parametrize(
        ("options", "words", "status"),
        [
            (["--memory", "x"], "is no size", 2),
            (["--memory", "1M"], "too small", 2),
            (["--memory", "900T"], "more than this machine's RAM", 2),
            (["--swap-size", "900T"], "does not fit", 2),
            (["--swap", "/no/such/dir/swap"], "No such file", 2),
            (["--swap", "/etc"], "no regular file", 2),
            (["--swap", "/etc/hostname"], "exists", 2),
            (["--memory-via", "ftp"], "fuse, descriptor", 2),
            (["--group", "no-such-group"], "no group", 2),
            (["--config", "/no/such.toml"], "No such file", 2),
            (["--nonsense"], "No such option", 2),
            (["--run-dir", "/" + "x" * 120], "longer than", 2),
            (["--run-dir", "/run/\udcff"], "UTF-8", 2),
            (["--run-dir", "/no/such/dir"], "No such file", 1),
        ],
    )
    def test_bad_options_are_refused_and_leave_nothing(
        self, place: Place, options: list[str], words: str, status: int
    ) -> None:
        assert_refused(place.uvmm("up", *options), words, status)
        assert list(place.path.iterdir()) == []

    def test_a_full_disk_is_told(self, place: Place) -> None:
        small = place.path / "disk"
        small.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8M", "uvmm-test", small], check=True
        )
        done = place.uvmm(
            "up", "--memory", "64M", "--swap", str(small / "swap"), "--swap-size", "64M"
        )
        assert_refused(done, "does not fit", 2)
        assert not place.run_dir.path.exists()

    def test_config_file(self, place: Place) -> None:
        file = place.path / "uvmm.toml"
        file.write_text(f'memory = "96M"\nswap = "{place.swap}"\nswap_size = "64M"\n')
        assert place.uvmm("up", "--config", str(file), "--swap-size", "32M").returncode == 0
        machine = place.client.get("/v1/stats")["machine"]
        assert (machine["total_bytes"], machine["swap_total_bytes"]) == (96 << 20, 32 << 20)

    def test_a_relative_swap_file_is_in_the_working_directory(self, place: Place) -> None:
        argv = ["up", "--memory", "64M", "--swap", "my.swap", "--swap-size", "4M"]
        assert place.uvmm(*argv, cwd=place.path).returncode == 0
        assert (place.path / "my.swap").exists()
        assert place.uvmm("down").returncode == 0
        assert list(place.path.iterdir()) == []

    def test_without_a_daemon_commands_say_so(self, place: Place) -> None:
        for command in (["ps"], ["stats"], ["down"], ["restore", "x"], ["reclaim", "x", "1M"]):
            assert_refused(place.uvmm(*command), "no daemon serves")

    @pytest.mark.parametrize("via", ["fuse", "descriptor"])
    def test_memory_via(self, place: Place, via: str) -> None:
        assert place.up("--memory-via", via).returncode == 0
        assert place.client.get("/v1/stats")["machine"]["memory_via"] == via

    def test_another_user_may_not_control_it(self, served: Place) -> None:
        child = os.fork()
        if not child:
            try:
                os.setuid(65534)
                served.client.get("/v1/health")
            except UvmmError as error:
                os._exit(5 if "may not control" in str(error) else 6)
            finally:
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5


class TestRun:
    def test_status_streams_and_arguments_pass(self, served: Place) -> None:
        script = 'cat; echo "$@" >&2; exit 7'
        done = served.uvmm("run", "--", "sh", "-c", script, "sh", "--name", input="hello")
        assert (done.returncode, done.stdout, done.stderr) == (7, "hello", "--name\n")

    def test_a_signal_that_ends_the_program_is_seen(self, served: Place) -> None:
        done = served.uvmm("run", "--", "sh", "-c", "kill -TERM $$")
        assert done.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)

    def test_signals_reach_the_program(self, served: Place) -> None:
        running = served.start(
            "run", "--", "sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done"
        )
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=30) == 9
        running.communicate()

    def test_a_killed_launcher_leaves_no_orphan(self, served: Place) -> None:
        running = served.start("run", "--name", "orphan", "--", "sleep", "100")
        wait_for(lambda: guest_names(served) == ["orphan"], "the guest")
        guest_pid = served.client.get("/v1/guests/orphan")["pid"]
        running.kill()
        wait_for(lambda: not guest_names(served), "the end of the guest")
        assert host.process(guest_pid) is None
        running.communicate()

    def test_a_broken_pipe_ends_the_program(self, served: Place) -> None:
        done = subprocess.run(
            ["sh", "-c", f"{UVMM} run -- yes | head -n 1"], env=served.environment,
            capture_output=True, text=True, check=True, timeout=30,
        )
        assert done.stdout == "y\n"
        wait_for(lambda: not guest_names(served), "the end of the guest")

    def test_it_costs_little(self, served: Place) -> None:
        costs = []
        for _ in range(5):
            start = time.monotonic()
            assert served.uvmm("run", "--", "true").returncode == 0
            costs.append(time.monotonic() - start)
        print(f"uvmm run -- true: median {sorted(costs)[2]:.3f} s of {RUN_COST_S} s")
        assert sorted(costs)[2] < RUN_COST_S

    @pytest.mark.parametrize(
        ("argv", "words", "status"),
        [
            (["no-such-program"], "no such program", 127),
            (["/no/such/program"], "no such program", 127),
            (["x" * 300], "no such program", 127),
            (["/etc/passwd"], "Permission denied", 126),
            (["/etc"], "Is a directory", 126),
            ([], "Missing argument", 2),
        ],
    )
    def test_programs_that_cannot_be(
        self, place: Place, argv: list[str], words: str, status: int
    ) -> None:
        assert_refused(place.uvmm("run", "--", *argv), words, status)
        assert list(place.path.iterdir()) == []

    def test_a_script_without_an_interpreter(self, served: Place) -> None:
        script = served.path / "script"
        script.write_text("echo hello\n")
        script.chmod(0o755)
        assert_refused(served.uvmm("run", "--", str(script)), "#!", 126)
        wait_for(lambda: not guest_names(served), "the end of the guest")

    @pytest.mark.parametrize(
        ("options", "words", "status"),
        [
            (["--max", "0"], "at least 2M", 2),
            (["--max", "x"], "is no size", 2),
            (["--max", "1G"], "more than can be backed", 2),
            (["--min", "1G"], "more than --max", 2),
            (["--min", "200M"], "cannot be guaranteed", 1),
            (["--shares", "0"], "must be 1 to", 2),
            (["--shares", "x"], "low, normal, high", 2),
            (["--name", "a/b"], "letters", 2),
            (["--name", ""], "letters", 2),
            (["--user", "no-such-user"], "no user", 2),
        ],
    )
    def test_bad_options_start_nothing(
        self, served: Place, options: list[str], words: str, status: int
    ) -> None:
        mark = served.path / "ran"
        done = served.uvmm("run", *options, "--", "touch", str(mark))
        assert_refused(done, words, status)
        assert not mark.exists()
        assert guest_names(served) == []

    def test_names(self, served: Place) -> None:
        first = served.start("run", "--name", "one", "--", "sleep", "100")
        wait_for(lambda: guest_names(served) == ["one"], "the guest")
        assert_refused(served.uvmm("run", "--name", "one", "--", "true"), "runs already")
        second = served.start("run", "--", "sleep", "100")
        third = served.start("run", "--", "sleep", "100")
        wait_for(lambda: len(guest_names(served)) == 3, "all guests")
        assert sorted(guest_names(served)) == ["one", "sleep", "sleep-2"]
        for running in (first, second, third):
            running.terminate()
            running.communicate()

    def test_a_name_is_free_as_soon_as_its_guest_has_ended(self, served: Place) -> None:
        for _ in range(5):
            done = served.uvmm("run", "--name", "again", "--", "true")
            assert done.returncode == 0, done.stderr

    def test_another_user(self, served: Place) -> None:
        # Where this checkout is, others may have no way to.
        (served.path / "all").mkdir()
        environment = {**served.environment, **copied(served.path / "all")}

        def run(*argv: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [UVMM, "run", "--user", "nobody", "--", *argv], env=environment,
                capture_output=True, text=True, check=False, timeout=WAIT_S,
            )

        done = run("sh", "-c", "id -un; grep -c libuvmm_heap /proc/$$/maps")
        assert done.stdout.splitlines()[0] == "nobody"
        assert int(done.stdout.splitlines()[1]) > 0
        assert run("cat", "/etc/shadow").returncode == 1
        (served.path / "all").chmod(0o700)
        done = run("true")
        assert done.returncode == 1
        assert "nobody may not read" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_it_starts_a_daemon_that_ends_with_the_last_guest(self, place: Place) -> None:
        running = place.start(
            "run", "--", "sh", "-c", "echo up; read line", stdin=subprocess.PIPE
        )
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        pid = place.daemon_pid
        assert place.uvmm("run", "--", "true").returncode == 0
        assert host.process(pid) is not None
        running.communicate("\n")
        wait_for(lambda: host.process(pid) is None, "the end of the daemon")
        assert list(place.path.iterdir()) == []

    def test_many_at_once_share_one_daemon(self, place: Place) -> None:
        running = [place.start("run", "--", "sleep", "0.3") for _ in range(4)]
        for one in running:
            _, complaint = one.communicate(timeout=60)
            assert (one.returncode, complaint) == (0, "")
        wait_for(lambda: not list(place.path.iterdir()), "the end of the daemon")


class TestFigures:
    def test_stats_and_ps(self, served: Place) -> None:
        running = served.start(
            "run", "--name", "a", "--min", "4M", "--max", "16M", "--shares", "7",
            "--", "sleep", "100",
        )
        wait_for(lambda: guest_names(served) == ["a"], "the guest")
        figures = json.loads(served.uvmm("stats", "--json").stdout)
        machine, (guest,) = figures["machine"], figures["guests"]
        assert machine["total_bytes"] == MEMORY_BYTES
        assert machine["swap_total_bytes"] == SWAP_BYTES
        assert machine["free_bytes"] == max(0, MEMORY_BYTES - machine["used_bytes"])
        assert (guest["min_bytes"], guest["max_bytes"]) == (4 << 20, 16 << 20)
        assert guest["shares"] == 7
        assert stored_and_held(guest) == guest["max_bytes"]
        assert guest["min_bytes"] <= guest["target_bytes"] <= guest["max_bytes"]
        assert json.loads(served.uvmm("ps", "--json").stdout)[0]["pid"] == guest["pid"]
        assert guest["pid"] == int(served.uvmm("ps").stdout.splitlines()[1].split()[1])
        assert "pressure none" in served.uvmm("stats").stdout
        running.terminate()
        running.communicate()

    def test_used_is_what_the_kernel_says(self, served: Place) -> None:
        def agree() -> bool:
            # The first answers make the daemon grow by a little while they are given.
            used = served.client.get("/v1/stats")["machine"]["used_bytes"]
            return bool(used == pytest.approx(kernel_used_bytes(served), rel=0.01))

        wait_for(agree, "agreement")

    def test_unknown_guests(self, served: Place) -> None:
        assert_refused(served.uvmm("reclaim", "none", "50%"), "no guest 'none'")
        for name in ("no/ne", "", "..", "no ne"):
            for command in (["restore", name], ["reclaim", name, "50%"]):
                assert_refused(served.uvmm(*command), f"there is no guest '{name}'; 'uvmm ps'")

    def test_reclaim_of_a_guest_that_has_not_attached(self, served: Place) -> None:
        running = served.start("run", "--heap", "none", "--name", "a", "--", "sleep", "100")
        wait_for(lambda: guest_names(served) == ["a"], "the guest")
        assert_refused(served.uvmm("reclaim", "a", "50%"), "not attached")
        assert_refused(served.uvmm("reclaim", "a", "lots"), "is no size", 2)
        assert_refused(served.uvmm("reclaim", "a", "1M", "--tier", "tape"), "swap", 2)
        running.terminate()
        running.communicate()

    def test_events(self, served: Place) -> None:
        served.uvmm("run", "--name", "brief", "--", "true")

        def ended() -> bool:
            events = served.client.get("/v1/events")
            return any((e["kind"], e["guest"]) == ("ended", "brief") for e in events)

        wait_for(ended, "the event")
        lines = served.run_dir.log.read_text().splitlines()
        assert all(json.loads(line)["text"] for line in lines)


class TestCrash:
    def kill(self, place: Place) -> None:
        pid = place.daemon_pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: host.process(pid) is None, "the daemon's death")

    def test_the_next_daemon_cleans_up(self, served: Place) -> None:
        self.kill(served)
        assert host.mounts_below(served.path)
        assert_refused(served.uvmm("ps"), "no daemon serves")
        assert served.up().returncode == 0
        assert guest_names(served) == []
        assert served.uvmm("down").returncode == 0
        assert list(served.path.iterdir()) == []

    def test_a_run_directory_has_one_name(self, place: Place) -> None:
        link = place.path / "link"
        link.symlink_to(place.path)
        elsewhere = ["--run-dir", str(link / "run")]
        assert place.up(*elsewhere).returncode == 0
        assert_refused(place.uvmm("up"), "already serves")
        self.kill(place)
        assert place.up(*elsewhere).returncode == 0
        assert place.uvmm("down", *elsewhere).returncode == 0
        assert list(place.path.iterdir()) == [link]
        assert host.mounts_below(place.path) == []

    def test_guests_that_live_are_named_and_ended_by_force(self, served: Place) -> None:
        running = served.start("run", "--name", "left", "--", "sleep", "100")
        wait_for(
            lambda: [g["attached"] for g in served.client.get("/v1/guests")] == [True],
            "the guest",
        )
        record = read_record(served.run_dir)
        assert record is not None
        guest = record.guests["left"]
        self.kill(served)
        assert_refused(served.up(), f"left ({guest.pid})")
        assert guest.alive()
        assert served.up("--force").returncode == 0
        assert not guest.alive()
        running.communicate()

    @pytest.mark.parametrize("damaged", [False, True])
    def test_its_swap_file_does_not_take_the_space_of_the_next(
        self, place: Place, damaged: bool
    ) -> None:
        disk = place.path / "disk"
        disk.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=32M", "uvmm-test", disk], check=True
        )
        small = ("up", "--memory", "64M", "--swap", str(disk / "swap"), "--swap-size", "24M")
        assert place.uvmm(*small).returncode == 0
        self.kill(place)
        if damaged:
            place.run_dir.state.write_text("?")
            assert_refused(place.uvmm(*small), "exists", 2)
        assert place.uvmm(*small, *(["--force"] if damaged else [])).returncode == 0
        assert place.uvmm("down").returncode == 0
        assert list(disk.iterdir()) == []

    def test_a_damaged_record_is_survived(self, served: Place) -> None:
        self.kill(served)
        served.run_dir.state.write_text('{"guests": [')
        assert served.up("--force").returncode == 0


@pytest.fixture
def never_large(place: Place) -> Iterator[Place]:
    """Small pages of shared memory alone, and no daemon that changes that."""
    # What a daemon that was killed has left the next one puts right.
    assert place.up().returncode == 0
    assert place.uvmm("down").returncode == 0
    former = {at: host.chosen_word(at.path) for at in machine_settings.page_settings()}
    if any(at.book.exists() or not os.access(at.path, os.W_OK) for at in former):
        pytest.skip("large pages are not ours to set, or other daemons serve")
    for at in former:
        at.path.write_text("never")
    try:
        yield place
    finally:
        for at, word in former.items():
            at.path.write_text(word)


@pytest.mark.alone
@pytest.mark.parametrize("via", ["fuse", "descriptor"])
def test_the_last_daemon_puts_the_settings_of_pages_back(
    never_large: Place, via: str
) -> None:
    small = ("--memory", "64M", "--swap-size", "0", "--memory-via", via)
    others = ["--run-dir", str(never_large.path / "other")]

    def words() -> list[str]:
        return [host.chosen_word(at.path) for at in machine_settings.page_settings()]

    for which in ([], others):
        assert never_large.uvmm("up", *small, *which).returncode == 0
    assert never_large.uvmm("doctor").returncode == 0
    assert words() == [at.on for at in machine_settings.page_settings()]
    assert never_large.uvmm("down").returncode == 0
    assert words() == [at.on for at in machine_settings.page_settings()]
    assert never_large.uvmm("down", *others).returncode == 0
    assert set(words()) == {"never"}
    assert not any(at.book.exists() for at in machine_settings.page_settings())


@pytest.mark.parametrize("argv", [[], ["--help"], ["run", "--help"]])
def test_help(tmp_path: Path, argv: list[str]) -> None:
    done = Place(tmp_path).uvmm(*argv)
    assert done.returncode == (0 if argv else 2)
    assert "Usage" in done.stdout + done.stderr


def test_doctor(tmp_path: Path) -> None:
    done = Place(tmp_path).uvmm("doctor", "--json")
    told = json.loads(done.stdout)
    assert told["usable"] == (done.returncode == 0)
    assert {"root", "kernel", "/dev/fuse"} <= {finding["what"] for finding in told["findings"]}
