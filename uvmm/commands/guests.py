# SPDX-License-Identifier: MIT
"""Commands that do something to guests: set, reclaim, restore, balloon, share."""

from __future__ import annotations

from typing import Annotated

import typer

from uvmm.commands.common import (
    AnyGuestArgument,
    BalloonMaxOption,
    GuestArgument,
    JsonOption,
    RunDirOption,
    SharesOption,
    TaxOption,
    client_of,
    console,
    examples,
    print_json,
)
from uvmm.errors import BadInputError
from uvmm.rundir import DEFAULT_RUN_DIR

app = typer.Typer()


@app.command(name="set", epilog=examples(
    "uvmm set redis-server --min 256M --shares high",
    "uvmm set job --max 1G --tax 50%",
))
def set_(
    name: GuestArgument,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    min_size: Annotated[
        str | None, typer.Option("--min", metavar="SIZE", help="Guaranteed memory.")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max", metavar="SIZE", help="The most that it may hold."),
    ] = None,
    shares: Annotated[str | None, SharesOption] = None,
    tax: Annotated[str | None, TaxOption] = None,
    balloon_max: Annotated[str | None, BalloonMaxOption] = None,
    as_json: JsonOption = False,
) -> None:
    """Change what a guest may hold while it runs: all that is given, or nothing."""
    from uvmm.client import guest_path

    values = {
        "min": min_size, "max": max_size, "shares": shares, "tax": tax,
        "balloon_max": balloon_max,
    }
    given = {key: value for key, value in values.items() if value is not None}
    if not given:
        raise BadInputError(
            "nothing to set: give one of --min, --max, --shares, --tax, --balloon-max"
        )
    changed = client_of(run_dir).patch(guest_path(name), given)
    if as_json:
        print_json(changed)
        return
    from uvmm.views import parameter_line

    print(parameter_line(changed))


@app.command(epilog=examples(
    "uvmm reclaim redis-server 50%",
    "uvmm reclaim job 64M --json",
))
def reclaim(
    name: GuestArgument,
    size: Annotated[str, typer.Argument(metavar="SIZE|PERCENT")],
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    tier: Annotated[str, typer.Option(metavar="swap", help="Where its pages go.")] = "swap",
    as_json: JsonOption = False,
) -> None:
    """Take memory out of a guest, such as 64M or 50% of what is resident."""
    from uvmm.client import guest_path
    from uvmm.commands.waiting import of_reclaim
    from uvmm.progress import watched
    from uvmm.views import reclaimed_line

    client = client_of(run_dir)
    with watched(f"reclaiming {name}", of_reclaim(client, name, size)):
        done = client.post(guest_path(name, "reclaim"), {"size": size, "tier": tier})
    if as_json:
        print_json(done)
    else:
        print(reclaimed_line(name, done, tier))


@app.command(epilog=examples(
    "uvmm restore redis-server",
))
def restore(
    name: GuestArgument,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    as_json: JsonOption = False,
) -> None:
    """Bring a guest's stored pages back."""
    from uvmm.client import guest_path
    from uvmm.commands.waiting import of_restore
    from uvmm.progress import watched
    from uvmm.views import restored_line

    client = client_of(run_dir)
    with watched(f"restoring {name}", of_restore(client, name)):
        done = client.post(guest_path(name, "restore"))
    if as_json:
        print_json(done)
    else:
        print(restored_line(name, done))


@app.command(epilog=examples(
    "uvmm balloon redis-server 64M",
    "uvmm balloon job 25% --json",
))
def balloon(
    name: GuestArgument,
    size: Annotated[str, typer.Argument(metavar="SIZE|PERCENT")],
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    as_json: JsonOption = False,
) -> None:
    """
    Ask a guest to give memory back, such as 64M or 50% of its max; 0 lets it have that again.

    The guest takes back what it cannot do without; the policy may ask for more.
    """
    from uvmm.client import guest_path
    from uvmm.units import format_size

    now = client_of(run_dir).post(guest_path(name, "balloon"), {"size": size})
    if as_json:
        print_json(now)
        return
    heard = "" if now["balloon_able"] else "; its agent does not answer now"
    print(
        f"asked {name} for a balloon of {format_size(now['balloon_target_bytes'])}; "
        f"{format_size(now['ballooned_bytes'])} are in it{heard}"
    )


@app.command(epilog=examples(
    "uvmm share",
    "uvmm share redis-server",
    "uvmm share --now",
))
def share(
    name: AnyGuestArgument = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    now: Annotated[
        bool, typer.Option("--now", help="Look through a guest's memory, or all, at once.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what guests share, or look for more now."""
    client = client_of(run_dir)
    if now:
        from uvmm.commands.waiting import of_share
        from uvmm.progress import watched

        with watched("looking for equal pages", of_share(client, name)):
            done = client.post("/v1/share", {"name": name})
        if as_json:
            print_json(done)
        else:
            from uvmm.views import shared_line

            print(shared_line(done))
        return
    figures = client.get("/v1/stats")
    if name is not None:
        from uvmm.client import guest_path

        figures["guests"] = [client.get(guest_path(name))]
    if as_json:
        print_json(figures)
        return
    from uvmm.views import sharing_parts

    lines, table = sharing_parts(figures)
    screen = console()
    screen.print("\n".join(lines), highlight=False)
    screen.print(table)
