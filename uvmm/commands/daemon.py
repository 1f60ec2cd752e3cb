# SPDX-License-Identifier: MIT
"""Commands about the daemon and the machine: up, down, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uvmm.commands.common import (
    JsonOption,
    RunDirOption,
    console,
    examples,
    print_json,
    run_dir_of,
)
from uvmm.errors import UvmmError
from uvmm.rundir import DEFAULT_RUN_DIR

if TYPE_CHECKING:
    from uvmm.settings import Settings

app = typer.Typer()


@app.command(epilog=examples(
    "uvmm up --memory 2G --swap-size 4G",
    "uvmm up --config /etc/uvmm.toml --http 8080",
    "uvmm up --run-dir /run/mine --policy policy.py",
))
def up(
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Machine memory for all guests; 25% of RAM."),
    ] = None,
    swap: Annotated[
        str | None, typer.Option(metavar="FILE", help="Swap file; below /var/tmp.")
    ] = None,
    swap_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Its size; twice the memory. 0 for none."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Settings; options here go first."),
    ] = None,
    memory_via: Annotated[
        str | None,
        typer.Option(metavar="fuse|descriptor", help="How guests get their memory."),
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="GROUP", help="May control the daemon, too.")
    ] = None,
    share_cpu: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="Of one CPU, to look for equal pages; 5%."),
    ] = None,
    idle_cost: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="Of guests' CPU time, to find idle pages; 0.4%."),
    ] = None,
    low_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Of memory, for devices to reach; 1/16."),
    ] = None,
    remap_after: Annotated[
        str | None,
        typer.Option(metavar="N", help="Copies until a page moves there; 4, 0: never."),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(metavar="PORT", help="Serve the web page on 127.0.0.1; see 'uvmm web'."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE.py", help="Another policy than uvmm's own."),
    ] = None,
    sample_pages: Annotated[
        str | None,
        typer.Option(metavar="N", help="Of each guest, watched for what it uses; 100."),
    ] = None,
    sample_seconds: Annotated[
        str | None,
        typer.Option(metavar="S", help="For so long of its execution; 30."),
    ] = None,
    tax: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="On guests' idle memory; 75%."),
    ] = None,
    balloon_max: Annotated[
        str | None,
        typer.Option(metavar="PERCENT|SIZE", help="Of a guest's max, for its balloon; 65%."),
    ] = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="Do not return.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="End guests of a killed daemon; replace the swap file."),
    ] = False,
) -> None:
    """Start a daemon; returns when it serves."""
    from uvmm.settings import Settings

    options = {
        "memory": memory, "swap": swap, "swap_size": swap_size,
        "memory_via": memory_via, "group": group, "share_cpu": share_cpu,
        "idle_cost": idle_cost, "low_memory": low_memory, "remap_after": remap_after,
        "http": http, "sample_pages": sample_pages,
        "sample_seconds": sample_seconds, "tax": tax, "balloon_max": balloon_max,
        "policy": None if policy is None else str(policy.absolute()),
    }
    given: dict[str, Any] = {
        key: value for key, value in options.items() if value is not None
    }
    if swap is not None:
        # The daemon has another working directory.
        given["swap"] = str(Path(swap).absolute())
    if config is not None:
        from uvmm.config import load

        given = load(config) | given
    settings = Settings(
        run_dir=str(run_dir_of(run_dir).path), force=force, foreground=foreground, **given
    )
    if foreground:
        _serve_here(settings)
    else:
        from uvmm.spawn import start

        start(settings)


@app.command(epilog=examples(
    "uvmm down",
    "uvmm down --run-dir /run/mine",
))
def down(run_dir: RunDirOption = DEFAULT_RUN_DIR) -> None:
    """End the daemon and all its guests."""
    from uvmm.spawn import end

    end(run_dir_of(run_dir))


@app.command(epilog=examples(
    "uvmm doctor",
    "uvmm doctor --json",
))
def doctor(as_json: JsonOption = False) -> None:
    """Tell what this machine offers and lacks; fails if uvmm cannot run."""
    from uvmm.doctor import examine, usable
    from uvmm.views import finding_table

    findings = examine()
    if as_json:
        print_json({"usable": usable(findings), "findings": findings})
    else:
        console().print(finding_table(findings))
    if not usable(findings):
        missing = [finding["what"] for finding in findings if finding["verdict"] == "missing"]
        raise UvmmError(f"uvmm cannot run here; missing: {', '.join(missing)}")


def _serve_here(settings: Settings) -> None:
    import asyncio

    from uvmm.notify import READY, STOPPING, notify
    from uvmm.serve import serve

    def say(line: str) -> bool:
        notify(READY)
        print(line, flush=True)
        return True

    asyncio.run(serve(settings, say))
    notify(STOPPING)
