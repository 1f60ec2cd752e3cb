# SPDX-License-Identifier: MIT
"""Commands about the daemon and the machine: up, down, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uvmm.commands.common import (
    JsonOption,
    RunDirOption,
    console,
    print_json,
    run_dir_of,
)
from uvmm.errors import UvmmError
from uvmm.rundir import DEFAULT_RUN_DIR

if TYPE_CHECKING:
    from uvmm.settings import Settings

app = typer.Typer()


@app.command()
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
    http: Annotated[
        str | None,
        typer.Option(metavar="PORT", help="Serve the web page on 127.0.0.1; see 'uvmm web'."),
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
        "idle_cost": idle_cost, "http": http,
    }
    given = {key: value for key, value in options.items() if value is not None}
    if swap is not None:
        # The daemon has another working directory.
        given["swap"] = str(Path(swap).absolute())
    if config is not None:
        from uvmm.config import load

        given = load(config) | given
    settings = Settings(
        run_dir=str(run_dir_of(run_dir).path), memory=given.get("memory"),
        swap=given.get("swap"), swap_size=given.get("swap_size"),
        memory_via=given.get("memory_via"), group=given.get("group"),
        share_cpu=given.get("share_cpu"), idle_cost=given.get("idle_cost"),
        http=given.get("http"),
        force=force, foreground=foreground,
    )
    if foreground:
        _serve_here(settings)
    else:
        from uvmm.spawn import start

        start(settings)


@app.command()
def down(run_dir: RunDirOption = DEFAULT_RUN_DIR) -> None:
    """End the daemon and all its guests."""
    from uvmm.spawn import end

    end(run_dir_of(run_dir))


@app.command()
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

    from uvmm.serve import serve

    def say(line: str) -> bool:
        print(line, flush=True)
        return True

    asyncio.run(serve(settings, say))
