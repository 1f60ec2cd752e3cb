# SPDX-License-Identifier: MIT
"""
The command line. Each command imports what it needs when it runs: `uvmm run` is
on the way of every program that is started by it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import click
import typer

from uvmm.errors import BadInputError, UvmmError
from uvmm.program import Heap
from uvmm.rundir import DEFAULT_RUN_DIR, RUN_DIR_VARIABLE, RunDir

if TYPE_CHECKING:
    from rich.console import Console

    from uvmm.client import Client
    from uvmm.settings import Settings

app = typer.Typer(
    help="Gives programs their memory from a budget, and reclaims it while they run.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)

RunDirOption = Annotated[
    str,
    typer.Option(
        "--run-dir", metavar="DIR", envvar=RUN_DIR_VARIABLE,
        help="The daemon's directory; one daemon serves each.",
    ),
]
SHOWN_DECISIONS = 10  # by `uvmm sim --explain`; JSON has all

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> NoReturn:
    """Run the command line; every error is one line and a status that is not 0."""
    try:
        status = app(standalone_mode=False)
    except UvmmError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        _fail(str(error), 1)
    sys.exit(status if isinstance(status, int) else 0)


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
    }
    given = {key: value for key, value in options.items() if value is not None}
    if swap is not None:
        # The daemon has another working directory.
        given["swap"] = str(Path(swap).absolute())
    if config is not None:
        from uvmm.config import load

        given = load(config) | given
    settings = Settings(
        run_dir=str(_run_dir(run_dir).path), memory=given.get("memory"),
        swap=given.get("swap"), swap_size=given.get("swap_size"),
        memory_via=given.get("memory_via"), group=given.get("group"),
        share_cpu=given.get("share_cpu"),
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

    end(_run_dir(run_dir))


# What follows the program is the program's own.
@app.command(context_settings={"allow_interspersed_args": False})
def run(
    program: Annotated[list[str], typer.Argument(metavar="-- PROGRAM ARG...")],
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The guest's name; the program's.")
    ] = None,
    min_size: Annotated[
        str | None, typer.Option("--min", metavar="SIZE", help="Guaranteed memory; 0.")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max", metavar="SIZE", help="Its memory; all that can be backed."),
    ] = None,
    shares: Annotated[
        int | None, typer.Option(metavar="N", help="Weight when memory is short; 1000.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="Whom the program runs as.")
    ] = None,
    heap: Annotated[
        Heap, typer.Option(help="Whose memory malloc and mmap give the program.")
    ] = Heap.AUTO,
    follow: Annotated[
        bool, typer.Option("--follow", help="What it executes are guests, too.")
    ] = False,
    share_group: Annotated[
        str | None,
        typer.Option(metavar="NAME|off", help="With whom it shares pages; its user's guests."),
    ] = None,
) -> None:
    """Run a program as a guest, and exit as it does."""
    from uvmm.launch import Launch, launch

    launch(
        _run_dir(run_dir),
        Launch(
            argv=program, name=name, min_size=min_size, max_size=max_size, shares=shares,
            user=user, heap=heap, follow=follow, share_group=share_group,
        ),
    )


@app.command()
def ps(run_dir: RunDirOption = DEFAULT_RUN_DIR, as_json: JsonOption = False) -> None:
    """List the guests."""
    guests = _client(run_dir).get("/v1/guests")
    if as_json:
        _print_json(guests)
        return
    from uvmm.views import guest_table

    _console().print(guest_table(guests))


@app.command()
def stats(run_dir: RunDirOption = DEFAULT_RUN_DIR, as_json: JsonOption = False) -> None:
    """Show where all memory is, and who waits for it."""
    figures = _client(run_dir).get("/v1/stats")
    if as_json:
        _print_json(figures)
        return
    from uvmm.views import stats_parts

    lines, table = stats_parts(figures)
    console = _console()
    console.print("\n".join(lines), highlight=False)
    console.print(table)


@app.command()
def reclaim(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    size: Annotated[str, typer.Argument(metavar="SIZE|PERCENT")],
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    tier: Annotated[str, typer.Option(metavar="swap", help="Where its pages go.")] = "swap",
) -> None:
    """Take memory out of a guest, such as 64M or 50% of what is resident."""
    from uvmm.client import guest_path
    from uvmm.units import format_size, pages_to_bytes

    done = _client(run_dir).post(guest_path(name, "reclaim"), {"size": size, "tier": tier})
    stayed = done["left_pages"]
    left = f"; {stayed} stayed: in use, or {tier} is full" if stayed else ""
    print(
        f"reclaimed {format_size(pages_to_bytes(done['pages']))} of {name} "
        f"({done['pages']} pages, {done['zero_pages']} of them zero{left}) "
        f"in {done['elapsed_seconds']:.2f} s"
    )


@app.command()
def restore(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Bring a guest's stored pages back."""
    from uvmm.client import guest_path
    from uvmm.units import format_size, pages_to_bytes

    done = _client(run_dir).post(guest_path(name, "restore"))
    left = f"; {done['left_pages']} pages found no room" if done["left_pages"] else ""
    print(
        f"restored {format_size(pages_to_bytes(done['pages']))} of {name} "
        f"({done['pages']} pages) in {done['elapsed_seconds']:.2f} s{left}"
    )


@app.command()
def share(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    now: Annotated[
        bool, typer.Option("--now", help="Look through a guest's memory, or all, at once.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what guests share, or look for more now."""
    client = _client(run_dir)
    if now:
        done = client.post("/v1/share", {"name": name})
        if as_json:
            _print_json(done)
        else:
            from uvmm.views import shared_line

            print(shared_line(done))
        return
    figures = client.get("/v1/stats")
    if name is not None:
        from uvmm.client import guest_path

        figures["guests"] = [client.get(guest_path(name))]
    if as_json:
        _print_json(figures)
        return
    from uvmm.views import sharing_parts

    lines, table = sharing_parts(figures)
    console = _console()
    console.print("\n".join(lines), highlight=False)
    console.print(table)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Tell what this machine offers and lacks; fails if uvmm cannot run."""
    from uvmm.doctor import examine, usable
    from uvmm.views import finding_table

    findings = examine()
    if as_json:
        _print_json({"usable": usable(findings), "findings": findings})
    else:
        _console().print(finding_table(findings))
    if not usable(findings):
        missing = [finding["what"] for finding in findings if finding["verdict"] == "missing"]
        raise UvmmError(f"uvmm cannot run here; missing: {', '.join(missing)}")


@app.command()
def sim(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="A file, or a name.")],
    as_json: JsonOption = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw it; needs matplotlib.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE.py", help="Another policy than uvmm's own."),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(metavar="GUEST", help="Tell the last decisions about a guest, and why."),
    ] = None,
) -> None:
    """Simulate guests on a model machine: who holds how much memory, and why."""
    from uvmm.policy.shares import TaxedShares
    from uvmm.policy_file import load_policy
    from uvmm.sim.run import run as simulate
    from uvmm.sim.scenario import load

    if plot is not None:
        from uvmm.sim.plot import plot as draw
    chosen = TaxedShares() if policy is None else load_policy(policy)
    outcome = simulate(load(scenario), chosen)
    if explain is not None and explain not in outcome.guests:
        raise BadInputError(f"--explain {explain!r}: the scenario has no such guest")
    if plot is not None:
        draw(outcome, plot)
    told = [] if explain is None else outcome.history.about(explain)
    if as_json:
        from uvmm.sim.report import as_json as figures_of

        figures = figures_of(outcome)
        if explain is not None:
            figures["decisions_about"] = [one.as_json(explain) for one in told]
        _print_json(figures)
        return
    from uvmm.sim.report import head_lines, kind_table, moment_table

    console = _console()
    lines = head_lines(outcome)
    console.print("\n".join(lines), highlight=False, markup=False)
    console.print(kind_table(outcome))
    console.print(moment_table(outcome))
    for decision in told[-SHOWN_DECISIONS:]:
        console.print("\n".join(decision.words(explain)), highlight=False, markup=False)


def _serve_here(settings: Settings) -> None:
    import asyncio

    from uvmm.serve import serve

    def say(line: str) -> bool:
        print(line, flush=True)
        return True

    asyncio.run(serve(settings, say))


def _run_dir(path: str) -> RunDir:
    from uvmm.settings import check_run_dir

    if not path:
        raise BadInputError(f"--run-dir and {RUN_DIR_VARIABLE} must not be empty")
    # One directory has one name, also for what mounts, locks and swap files are called.
    real = os.path.realpath(path)
    check_run_dir(real)
    return RunDir(Path(real))


def _client(run_dir: str) -> Client:
    from uvmm.client import Client

    return Client(_run_dir(run_dir).control_socket)


def _console() -> Console:
    from rich.console import Console

    # A pipe has no width: lines for other programs are not folded.
    return Console(width=None if sys.stdout.isatty() else 200)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def _fail(message: str, status: int) -> NoReturn:
    one_line = " ".join(message.split())
    sys.stderr.write(f"uvmm: {one_line}\n")
    sys.exit(status)
