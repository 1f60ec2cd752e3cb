# SPDX-License-Identifier: MIT
"""What an unmodified program may expect of its memory, as a guest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.guest.conftest import UVMM, Place, wait_for
from tests.guest.reclaiming import machine, reclaiming, run, uvmm_argv

if TYPE_CHECKING:
    from uvmm.scratch import Scratch

SOURCE = Path(__file__).with_name("programs") / "heap_check.c"
PLUGINS = SOURCE.with_name("plugin_check.c")
ENOUGH = 256 << 20
TIGHT = 24 << 20


@pytest.fixture(scope="module")
def heap_check(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = tmp_path_factory.mktemp("programs") / "heap_check"
    subprocess.run(
        ["gcc", "-O1", "-g", "-Wall", "-Werror", "-pthread", "-o", program, SOURCE], check=True
    )
    return str(program)


@pytest.mark.parametrize(
    "mode", ["malloc", "mmap", "pieces", "fork", "start", "stack", "daemon"]
)
def test_memory_and_processes_are_as_ever(heap_check: str, mode: str) -> None:
    plain = run([heap_check, mode])
    assert plain.returncode == 0, plain.stdout
    with machine(ENOUGH) as daemon:
        done = run([heap_check, mode], daemon=daemon)
        assert (done.returncode, done.stdout, done.stderr) == (0, plain.stdout, b"")
        with reclaiming(daemon):
            done = run([heap_check, mode], daemon=daemon)
        assert (done.returncode, done.stdout, done.stderr) == (0, plain.stdout, b"")


@pytest.mark.parametrize("mode", ["malloc", "pieces", "fork"])
def test_they_are_where_memory_is_short(heap_check: str, mode: str) -> None:
    with machine(TIGHT) as daemon, reclaiming(daemon) as taken:
        done = run([heap_check, mode], daemon=daemon)
    assert (done.returncode, done.stderr) == (0, b""), done.stdout
    assert taken.pages


def test_plugins_and_the_program_have_one_heap(tmp_path: Path) -> None:
    inner, plugin, program = tmp_path / "inner", tmp_path / "plugin.so", tmp_path / "program"
    inner.mkdir()
    shared = ["gcc", "-shared", "-fPIC"]
    found = "-Wl,--enable-new-dtags,-rpath,$ORIGIN/inner"
    for argv in (
        [*shared, "-DINNER", "-o", str(inner / "libinner.so")],
        [*shared, "-DPLUGIN", found, "-o", str(plugin)],
        ["gcc", "-o", str(program)],
    ):
        subprocess.run([*argv, str(PLUGINS)], check=True)
    assert run([str(program), str(plugin)]).stdout == b"ok\n"
    with machine(ENOUGH) as daemon:
        done = run([str(program), str(plugin)], daemon=daemon)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ok\n", b"")


def test_an_image_may_follow_an_image_at_once() -> None:
    chain = "for i in $(seq 150); do (exec env env env true) || echo bad $i; done; echo done"
    with machine(ENOUGH) as daemon:
        environment = {**os.environ, "UVMM_RUN_DIR": str(daemon.run_dir)}
        loops = [
            subprocess.Popen(
                uvmm_argv(["bash", "-c", chain], follow=True), env=environment,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
            for _ in range(2)
        ]
        assert [loop.communicate(timeout=120)[0] for loop in loops] == [b"done\n"] * 2


OTHER_USER = """
import os, time
held = [str(i) * 5 for i in range(200000)]
os.setgid(65534); os.setuid(65534)
pid = os.fork()
again = [str(i) * 5 for i in range(200000)]
if not pid:
    os._exit(again != held)
print(os.waitpid(pid, 0)[1], os.getuid(), again == held)
os.closerange(3, 2000)
del held, again
time.sleep(1.5)
print(len("".join(str(i) for i in range(300000))))
"""


def test_it_may_change_its_user_and_close_what_is_ours() -> None:
    argv = ["/usr/bin/python3", "-c", OTHER_USER]
    plain = run(argv)
    with machine(TIGHT * 2) as daemon, reclaiming(daemon) as taken:
        done = run(argv, daemon=daemon)
    assert (done.returncode, done.stdout, done.stderr) == (0, plain.stdout, b"")
    assert taken.pages


def test_an_address_space_that_is_too_small_is_told(served: Place) -> None:
    limited = 'ulimit -v 200000; exec "$@"'
    argv = ["sh", "-c", limited, "sh", *uvmm_argv(["/bin/true"], max_bytes=256 << 20)]
    done = subprocess.run(
        argv, env=served.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 125
    assert "address space (ulimit -v) is under --max" in done.stderr


def test_who_uses_up_its_memory_gets_enomem(heap_check: str, served: Place) -> None:
    done = subprocess.run(
        uvmm_argv([heap_check, "exhaust"], max_bytes=96 << 20), env=served.environment,
        capture_output=True, check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"exhaust: ok\n")


FULL = """
import os, threading, time
blocks = []
try:
    while True:
        blocks.append(bytes(60_000))
except MemoryError:
    pass
time.sleep(0.6)  # the agent's thread has looked for what could go back
del blocks[:40]
threads = [threading.Thread(target=bytes, args=(5000,)) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("fine", flush=True)
"""


def test_threads_begin_though_memory_is_full(served: Place) -> None:
    """Those of the program, and the agent's before any of them."""
    done = served.uvmm("run", "--max", "64M", "--", sys.executable, "-c", FULL)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_what_is_freed_goes_back(heap_check: str) -> None:
    with machine(ENOUGH * 2) as daemon:
        guest = daemon.run([heap_check, "shrink"], name="shrink", max_bytes=ENOUGH * 2)
        assert guest.stdin is not None
        assert guest.stdout is not None
        assert guest.stdout.readline() == "grown\n"
        peak = daemon.figures()["guests"][0]["resident_bytes"]
        guest.stdin.write("\n")
        guest.stdin.flush()
        assert guest.stdout.readline() == "freed\n"
        wait_for(
            lambda: daemon.figures()["guests"][0]["resident_bytes"] < peak * 0.2,
            "freed memory to go back",
        )
        guest.stdin.write("\n")
        guest.stdin.flush()
        assert guest.wait(10) == 0


def test_what_is_locked_is_never_stored(heap_check: str, scratch: Scratch) -> None:
    guest = scratch.run([heap_check, "locked"], name="a", max_bytes=64 << 20)
    assert guest.stdin is not None
    assert guest.stdout is not None
    assert guest.stdout.readline() == "locked\n"
    assert scratch.figures()["guests"][0]["resident_bytes"] < 8 << 20
    scratch.reclaim("a", 100)
    stored = scratch.swap_file.read_bytes()
    assert (b"locked secret" in stored, b"free secret" in stored) == (False, True)
    guest.stdin.write("\n")
    guest.stdin.flush()
    assert guest.stdout.readline() == "unlocked\n"
    scratch.reclaim("a", 100)
    assert b"locked secret" in scratch.swap_file.read_bytes()
    assert guest.communicate("\n")[0] == "locked: ok\n"


@pytest.mark.parametrize("program", ["python", "arenas"])
def test_most_of_its_memory_is_managed(heap_check: str, served: Place, program: str) -> None:
    code = "x = [str(i) * 10 for i in range(300000)]; print('grown', flush=True); input()"
    argv = ["/usr/bin/python3", "-c", code] if program == "python" else [heap_check, "arenas"]
    guest = subprocess.Popen(
        [UVMM, "run", "--name", "a", "--", *argv],
        env=served.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    assert guest.stdout is not None
    assert guest.stdout.readline() == "grown\n"
    figures = json.loads(served.uvmm("ps", "--json").stdout)[0]
    managed = figures["resident_bytes"] + figures["swapped_bytes"]
    guest.communicate("\n")
    assert managed / (managed + figures["unmanaged_bytes"]) > 0.95


def test_a_wrapper_hands_its_place_on(served: Place) -> None:
    python = '/usr/bin/python3 -c "import time; time.sleep(100)"'
    shell = f"exec env A=1 /bin/sh -c 'exec {python}'"
    guest = subprocess.Popen(
        [UVMM, "run", "--name", "a", "--", "/bin/sh", "-c", shell], env=served.environment
    )

    def is_python() -> bool:
        guests = json.loads(served.uvmm("ps", "--json").stdout)
        name = Path(f"/proc/{guests[0]['pid']}/comm").read_text() if guests else ""
        return name == "python3\n" and guests[0]["resident_bytes"] > 2 << 20

    wait_for(is_python, "python to have the guest's memory")
    assert len(json.loads(served.uvmm("ps", "--json").stdout)) == 1
    guest.terminate()
    guest.wait()


@pytest.mark.parametrize(("follow", "names"), [([], {"a"}), (["--follow"], {"a", "a-2"})])
def test_what_it_executes_is_a_guest_with_follow_alone(
    served: Place, follow: list[str], names: set[str]
) -> None:
    guest = served.start("run", "--name", "a", *follow, "--", "/bin/sh", "-c", "cat; true",
                         stdin=subprocess.PIPE)

    def seen() -> set[str]:
        return {one["name"] for one in json.loads(served.uvmm("ps", "--json").stdout)}

    wait_for(lambda: seen() == names, f"the guests {names}")
    time.sleep(0.3)
    assert seen() == names
    assert guest.communicate("through cat\n") == ("through cat\n", "")


def test_the_guest_library_says_that_the_heap_has_the_memory(served: Place) -> None:
    # By a name that `uvmm run` does not see.
    program = "import importlib; importlib.import_module('guest' + 'lib').attach()"
    done = served.uvmm("run", "--", sys.executable, "-c", program)
    assert done.returncode == 1
    assert "start it with `uvmm run --heap none`" in done.stderr


def test_what_cannot_be_is_refused_before_it_starts(served: Place, tmp_path: Path) -> None:
    code, program = tmp_path / "static.c", tmp_path / "static"
    code.write_text("int main(void) { return 7; }")
    subprocess.run(["gcc", "-static", "-o", program, code], check=True)
    done = served.uvmm("run", "--", str(program))
    assert done.returncode == 126
    assert "a static program" in done.stderr
    assert done.stderr.count("\n") == 1
    assert served.uvmm("run", "--heap", "none", "--", str(program)).returncode == 7
