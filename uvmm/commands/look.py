# SPDX-License-Identifier: MIT
"""Commands by which one looks: top, web."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from uvmm.commands.common import JsonOption, RunDirOption, client_of, print_json, run_dir_of
from uvmm.errors import BadInputError, UvmmError
from uvmm.rundir import DEFAULT_RUN_DIR

app = typer.Typer()

LOOK_WAIT_S = 3.0
LONGEST_INTERVAL_S = 3600.0


@app.command()
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


@app.command()
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
