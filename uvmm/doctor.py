# SPDX-License-Identifier: MIT
"""`uvmm doctor`: what this kernel and machine offer, and what a lack of it costs."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from uvmm import host, machine_settings
from uvmm.errors import UvmmError
from uvmm.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

Verdict = Literal["ok", "lacking", "missing"]

LEAST_RAM_BYTES = 512 << 20
LEAST_DISK_BYTES = 1 << 30
DEFAULT_MAPS = 65530
_TRIAL_PAGES = 128 << 20 >> 12

_SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
_UFFDIO_API = 0xC018AA3F
_UFFD_API = 0xAA
# Bits of linux/userfaultfd.h.
_UFFD_FEATURES = {
    "write-protect faults": (1 << 0, "5.7"),
    "missing faults on shared memory": (1 << 5, "4.11"),
    "the faulting thread's number": (1 << 8, "4.14"),
    "minor faults on shared memory": (1 << 10, "5.14"),
    "write protection of shared memory": (1 << 12, "5.19"),
    "poisoned pages": (1 << 14, "6.6"),
}


class Finding(TypedDict):
    """One thing looked at; `missing` means that uvmm cannot run without it."""

    what: str
    verdict: Verdict
    found: str
    cost: str


def examine() -> list[Finding]:
    """Look at everything; takes well below a second."""
    return [
        _root(), _kernel(), _ram(), _disk(Path("/var/tmp")),
        *_userfaultfd(), _fuse(), *_engines(), _large_pages(), _maps(),
    ]


def usable(findings: Iterable[Finding]) -> bool:
    """Tell whether uvmm can run."""
    return all(finding["verdict"] != "missing" for finding in findings)


def _finding(
    what: str, found: str, cost: str, *, good: bool, needed: bool = False
) -> Finding:
    verdict: Verdict = "ok" if good else "missing" if needed else "lacking"
    return Finding(what=what, verdict=verdict, found=found, cost="" if good else cost)


def _root() -> Finding:
    root = os.geteuid() == 0
    return _finding(
        "root", "yes" if root else f"user {os.geteuid()}",
        "the daemon mounts filesystems: start it with sudo (guests need no root)",
        good=root, needed=True,
    )


def _kernel() -> Finding:
    release = os.uname().release
    numbers = release.split("-")[0].split(".")
    version = tuple(int(number) for number in numbers[:2] if number.isdigit())
    return _finding(
        "kernel", release,
        "6.6 is needed for userfaultfd's poisoned pages, 6.9 for FUSE passthrough",
        good=version >= (6, 9), needed=version < (6, 6),
    )


def _ram() -> Finding:
    ram = host.ram_bytes()
    return _finding(
        "RAM", format_size(ram), "a quarter of it is little for guests; give --memory",
        good=ram >= LEAST_RAM_BYTES,
    )


def _disk(directory: Path) -> Finding:
    try:
        free = host.free_disk_bytes(directory)
    except UvmmError as error:
        return _finding(
            "disk for swap", str(error), "give --swap on another disk", good=False
        )
    return _finding(
        "disk for swap", f"{format_size(free)} free at {directory}",
        "guests can outgrow memory only by what swap holds; give --swap on another disk",
        good=free >= LEAST_DISK_BYTES,
    )


def _userfaultfd() -> list[Finding]:
    features = _userfaultfd_features()
    if features is None:
        return [
            _finding(
                "userfaultfd", "refused",
                "the kernel needs CONFIG_USERFAULTFD, and we the right to use it",
                good=False, needed=True,
            )
        ]
    device = Path("/dev/userfaultfd").exists()
    findings = [
        _finding(
            "/dev/userfaultfd", "there" if device else "not there",
            "guests get their userfaultfd from it; Linux 6.1 with CONFIG_USERFAULTFD has it",
            good=device, needed=True,
        )
    ]
    for name, (bit, since) in _UFFD_FEATURES.items():
        there = bool(features & bit)
        findings.append(
            _finding(
                f"userfaultfd: {name}", "yes" if there else "no",
                f"memory cannot be reclaimed safely without; Linux {since} has it",
                good=there, needed=True,
            )
        )
    return findings


def _userfaultfd_features() -> int | None:
    """Return the kernel's feature bits, None if there is no userfaultfd for us."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SYS_USERFAULTFD.get(os.uname().machine)
    descriptor = -1 if number is None else libc.syscall(number, os.O_CLOEXEC)
    if descriptor < 0:
        return None
    asked = (ctypes.c_uint64 * 3)(_UFFD_API, 0, 0)
    try:
        return asked[1] if libc.ioctl(descriptor, _UFFDIO_API, asked) == 0 else None
    finally:
        os.close(descriptor)


def _fuse() -> Finding:
    there = os.access("/dev/fuse", os.R_OK | os.W_OK)
    return _finding(
        "/dev/fuse", "there" if there else "not there, or not ours to open",
        "memory is handed over as descriptors: no mem/<guest> to see (modprobe fuse)",
        good=there,
    )


def _engines() -> list[Finding]:
    """Try the real thing, both ways, in a directory of its own."""
    if os.geteuid() != 0:
        return []
    by_fuse, by_descriptor = _try_engine("fuse"), _try_engine("descriptor")
    return [
        _finding(
            "memory by FUSE passthrough", by_fuse or "works",
            "memory is handed over as descriptors (Linux 6.9 with CONFIG_FUSE_PASSTHROUGH)",
            good=not by_fuse, needed=bool(by_descriptor),
        ),
        _finding(
            "memory by descriptor", by_descriptor or "works",
            "there is no way left if FUSE passthrough fails, too",
            good=not by_descriptor, needed=bool(by_fuse),
        ),
    ]


def _try_engine(via: str) -> str:
    """Return why an engine does not start; empty if it does."""
    try:
        from uvmm.core import Engine  # noqa: PLC0415 - it may not be built
        from uvmm.engine_config import EngineConfig  # noqa: PLC0415
    except ImportError as error:
        return f"not built, run bin/setup-env: {error}"

    with tempfile.TemporaryDirectory(prefix="uvmm-doctor-") as directory:
        config = EngineConfig(
            run_dir=Path(directory), swap_path=Path(directory) / "swap",
            memory_pages=_TRIAL_PAGES, swap_pages=256, via=via, group=None,
            share_cpu_permille=0, idle_cost_permille=0,
        )
        try:
            Engine(config).stop()
        except UvmmError as error:
            return str(error)
    return ""


def _large_pages() -> Finding:
    words, good = [], True
    for setting in machine_settings.page_settings():
        word = host.shmem_word(setting.path)
        settable = word == "never" and os.access(setting.path, os.W_OK)
        good = good and (settable or word not in ("", "never", "deny"))
        note = f" (the daemon sets {setting.on} while it runs)" if settable else ""
        words.append(f"{setting.path.parent.name}: {word or 'none'}{note}")
    return _finding(
        "large pages of shared memory", "; ".join(words),
        "guests use 4 KiB pages: first touch takes three times as long, and random access "
        "over much memory up to twice",
        good=good,
    )


def _maps() -> Finding:
    try:
        maps = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        maps = 0
    return _finding(
        "vm.max_map_count", str(maps),
        "fewer mappings a guest, where the daemon may not raise it: less is shared",
        good=maps >= DEFAULT_MAPS,
    )
