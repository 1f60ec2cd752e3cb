# SPDX-License-Identifier: MIT
"""What all commands have in common: completion, settings, progress, JSON."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.conftest import UVMM, Place, wait_for
from tests.guest.terminal import terminal
from tests.guest.test_cli import assert_refused

UNIT = Path(__file__).parents[2] / "docs" / "uvmm.service"


def completed(place: Place, *words: str) -> list[str]:
    """What bash completes the last word to."""
    script = (
        f'PATH={Path(UVMM).parent}:$PATH; eval "$(uvmm completion bash)"; '
        f'COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}; '
        '_uvmm_completion uvmm; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], env=place.environment, capture_output=True, text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_guests(served: Place) -> None:
    guest = served.start("run", "--name", "a-guest", "--", "sleep", "100")
    wait_for(lambda: served.client.get("/v1/guests"), "the guest")
    assert completed(served, "uvmm", "re") == ["record", "report", "reclaim", "restore"]
    assert completed(served, "uvmm", "reclaim", "a") == ["a-guest"]
    assert "--share-cpu" in completed(served, "uvmm", "up", "--sh")
    guest.terminate()
    guest.communicate()
    assert served.uvmm("down").returncode == 0
    assert completed(served, "uvmm", "reclaim", "a") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(place: Place, shell: str) -> None:
    done = place.uvmm("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_UVMM_COMPLETE" in done.stdout
    assert_refused(place.uvmm("completion", "dos"), "'bash', 'zsh', 'fish'", 2)


def test_a_file_of_settings_is_written_checked_and_used(place: Place) -> None:
    file = place.path / "uvmm.toml"
    assert place.uvmm("config", "--init", cwd=place.path).returncode == 0
    assert json.loads(place.uvmm("config", str(file), "--json").stdout) == {}
    assert_refused(place.uvmm("config", "--init", str(file)), "exists; replace it with --force")
    file.write_text(file.read_text().replace('#memory = "2G"', 'memory = "80M"'))
    told = dict(
        line.split(maxsplit=1) for line in place.uvmm("config", str(file)).stdout.splitlines()
    )
    assert (told["memory"], told["share_cpu"]) == ("80M", "default: 5%")
    assert place.up("--config", str(file), "--memory", "64M").returncode == 0
    assert place.client.get("/v1/stats")["machine"]["total_bytes"] == 64 << 20
    assert place.uvmm("config", "--init", str(file), "--force").returncode == 0
    assert "#memory" in place.uvmm("config", "--init", "-").stdout
    file.write_text("memory = 5\nmemory = 6\n")
    assert_refused(place.uvmm("config", str(file)), "is no TOML", 2)
    assert_refused(place.uvmm("config", "/no/such.toml"), "No such file", 2)


def test_systemd_is_told_when_it_serves(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(str(place.path / "notify"))
        link.settimeout(20)
        daemon = subprocess.Popen(
            [UVMM, "up", "--foreground", "--memory", "64M", "--swap-size", "0"],
            env={**place.environment, "NOTIFY_SOCKET": str(place.path / "notify")},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        assert link.recv(100) == b"READY=1"
        assert place.client.get("/v1/health")["status"] == "serving"
        daemon.send_signal(signal.SIGTERM)
        assert link.recv(100) == b"STOPPING=1"
        daemon.communicate()
        assert daemon.returncode == 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "uvmm.service"
    unit.write_text(UNIT.read_text().replace("/opt/uvmm/bin/uvmm", UVMM))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "uvmm.service" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_jobs_tell_json(served: Place) -> None:
    guest = served.start(
        "run", "--name", "a", "--", sys.executable, "-c",
        "import os; held = os.urandom(8 << 20); print('up', flush=True); input()",
        stdin=subprocess.PIPE,
    )
    assert guest.stdout is not None
    assert guest.stdout.readline() == "up\n"
    for argv in (["reclaim", "a", "4M"], ["restore", "a"]):
        done = served.uvmm(*argv, "--json")
        assert done.stderr == ""
        assert json.loads(done.stdout)["pages"] > 0
    guest.communicate("\n")


def test_progress_is_shown_on_a_terminal(place: Place) -> None:
    with terminal([UVMM, "sim", "figure8"], place.environment, columns=120) as screen:
        screen.wait_for("simulating")
        screen.wait_for("states ")
        assert "simulating" not in screen.text()
