# SPDX-License-Identifier: MIT
"""Commands by which one looks: top, web, mount, umount, record, report."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from uvmm.commands.common import (
    JsonOption,
    RunDirOption,
    client_of,
    examples,
    print_json,
    run_dir_of,
)
from uvmm.errors import BadInputError, ConflictError, UvmmError
from uvmm.rundir import DEFAULT_RUN_DIR

if TYPE_CHECKING:
    from uvmm.past import Past

app = typer.Typer()

LOOK_WAIT_S = 3.0
LONGEST_INTERVAL_S = 3600.0
LONGEST_RECORD_S = 1e9


@app.command(epilog=examples(
    "uvmm top",
    "uvmm top --sort RESIDENT --interval 0.5",
))
def top(
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", help="How often to look; 1.")
    ] = 1.0,
    sort: Annotated[
        str, typer.Option(metavar="COLUMN", help="What to sort by, e.g. RESIDENT.")
    ] = "STALL%",
) -> None:
    """Show the machine and its guests, live; stalls first. Press ? for the keys."""
    from uvmm.client import Client
    from uvmm.top_model import TITLES

    if not 0.1 <= interval <= LONGEST_INTERVAL_S:
        raise BadInputError(f"--interval {interval:g}: give 0.1 to {LONGEST_INTERVAL_S:g}")
    if sort.upper() not in TITLES:
        raise BadInputError(f"--sort {sort}: give one of {', '.join(TITLES)}")
    # It draws on standard error.
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise UvmmError("top needs a terminal; 'uvmm stats' prints the same figures once")
    from uvmm.top import Top

    place = run_dir_of(run_dir)
    client = Client(place.control_socket, wait_s=LOOK_WAIT_S)
    Top(
        client, str(place.path), period_s=interval, sort=TITLES.index(sort.upper())
    ).run()


@app.command(epilog=examples(
    "uvmm web",
    "uvmm web --json",
))
def web(run_dir: RunDirOption = DEFAULT_RUN_DIR, as_json: JsonOption = False) -> None:
    """Print the address of the web page, with the token that opens it."""
    port = client_of(run_dir).get("/v1/health")["http_port"]
    if port is None:
        raise UvmmError("the daemon has no web page; start it with 'uvmm up --http PORT'")
    token = run_dir_of(run_dir).http_token.read_text().strip()
    url = f"http://127.0.0.1:{port}/"
    if as_json:
        print_json({"url": url, "port": port, "token": token})
    else:
        print(f"{url}#token={token}")


@app.command(epilog=examples(
    "uvmm mount /tmp/look",
    "uvmm mount --foreground /tmp/look",
))
def mount(
    directory: Annotated[str, typer.Argument(metavar="DIR")],
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay; Ctrl-C unmounts.")
    ] = False,
) -> None:
    """
    Mount machine and guests as files: figures, knobs, page maps, memory, events.

    DIR has to be there; DIR/README says what each file is.
    """
    from uvmm.look import mount as mounting

    # An answer first: a wrong --run-dir would be a directory full of errors.
    client_of(run_dir).get("/v1/health")
    if foreground:
        mounting.serve(run_dir_of(run_dir), mounting.check_place(directory), quiet=True)
    else:
        mounting.mount(run_dir_of(run_dir), directory)


@app.command(epilog=examples(
    "uvmm umount /tmp/look",
    "uvmm umount --lazy /tmp/look",
))
def umount(
    directory: Annotated[str, typer.Argument(metavar="DIR")],
    lazy: Annotated[
        bool, typer.Option("--lazy", help="At once, also if files there are open.")
    ] = False,
) -> None:
    """Unmount what 'uvmm mount' has mounted; its process ends."""
    from uvmm.look import mount as mounting

    mounting.unmount(directory, lazy=lazy)


@app.command(epilog=examples(
    "uvmm record night.jsonl",
    "uvmm record - --every 10 --for 60",
))
def record(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Or - for standard output.")],
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    append: Annotated[bool, typer.Option("--append", help="To a file that exists.")] = False,
    every: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=3600, help="Keep one sample of so many; 1."),
    ] = 1,
    seconds: Annotated[
        float | None,
        typer.Option("--for", metavar="SECONDS", min=0, help="How long; until it is ended."),
    ] = None,
) -> None:
    """Keep the figures: all that the daemon remembers, then a JSON line a second."""
    from uvmm.client import Client
    from uvmm.record import samples, write

    if seconds is not None and not seconds < LONGEST_RECORD_S:
        raise BadInputError(f"--for {seconds:g}: give less than {LONGEST_RECORD_S:g} seconds")
    client = Client(run_dir_of(run_dir).control_socket)
    until_s = None if seconds is None else time.monotonic() + seconds
    new = samples(client, until_s=until_s, complain=lambda words: _say(f"uvmm: {words}"))
    rows = next(new)
    with _opened(file, append=append) as out:
        try:
            kept = write(rows, out, every)
            for rows in new:
                kept += write(rows, out, every)
        except KeyboardInterrupt:
            _say("")  # the terminal has shown ^C
        if file != "-":
            _say(f"{kept} samples in {file}")


@app.command(epilog=examples(
    "uvmm report out",
    "uvmm report out --from night.jsonl --force",
))
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="What 'uvmm record' has written."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into DIR though it is not empty.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the past as pictures and a page: who held how much memory, and who waited."""
    from uvmm.progress import progress

    past = _past(run_dir, source)
    # Not earlier: matplotlib takes a second.
    from uvmm.report import PAGE, make_report

    with progress("drawing") as bar:
        done = make_report(past, directory, force=force, progress=bar)
    if as_json:
        print_json(done)
    else:
        print(f"{directory / PAGE}: {done['samples']} samples, {len(done['guests'])} guests")


def _past(run_dir: str, source: Path | None) -> Past:
    from uvmm.past import past_of, rows_in, rows_of

    if source is None:
        return past_of(rows_of(client_of(run_dir).get("/v1/history")))
    try:
        with source.open(encoding="utf-8") as lines:
            return past_of(rows_in(lines))
    except (BadInputError, UnicodeDecodeError) as error:
        raise BadInputError(f"{source}: {error}") from None


def _opened(file: str, *, append: bool) -> TextIO:
    if file == "-":
        return sys.stdout
    try:
        return Path(file).open("a" if append else "x", encoding="utf-8")
    except FileExistsError:
        raise ConflictError(f"{file} exists; add to it with --append") from None


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")
