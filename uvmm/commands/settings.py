# SPDX-License-Identifier: MIT
"""Commands about settings and the shell: config, completion."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from uvmm.commands.common import (
    JsonOption,
    examples,
    print_json,
)
from uvmm.errors import ConflictError

STANDARD_OUTPUT = "-"

app = typer.Typer()


class Shell(StrEnum):
    """Shells whose completion we know."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command(epilog=examples(
    "uvmm config --init",
    "uvmm config --init /etc/uvmm.toml",
    "uvmm config /etc/uvmm.toml",
))
def config(
    file: Annotated[
        str, typer.Argument(metavar="[FILE.toml]", help="- is standard output.")
    ] = "uvmm.toml",
    init: Annotated[
        bool, typer.Option("--init", help="Write it, with every setting in a comment.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --init: replace one that is there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a file of settings for 'uvmm up --config', or check one."""
    if init:
        _write(file, force=force)
        return
    from uvmm.config import load
    from uvmm.knobs import DAEMON

    given = load(Path(file))
    if as_json:
        print_json(given)
        return
    for knob in DAEMON:
        if knob.key:
            default = f"default: {knob.default}".replace("`", "")
            print(f"{knob.key:<16}{given.get(knob.key, default)}")


def _write(file: str, *, force: bool) -> None:
    from uvmm.knobs import config_text

    if file == STANDARD_OUTPUT:
        sys.stdout.write(config_text())
        return
    try:
        with Path(file).open("w" if force else "x", encoding="utf-8") as out:
            out.write(config_text())
    except FileExistsError:
        raise ConflictError(f"{file} exists; replace it with --force") from None


@app.command(epilog=examples(
    'eval "$(uvmm completion bash)"',
    "uvmm completion fish",
))
def completion(
    shell: Annotated[Shell, typer.Argument(help="For which shell.")],
) -> None:
    """Print what makes a shell complete uvmm's commands, options and guests."""
    from click.shell_completion import get_completion_class

    from uvmm.cli import COMPLETE_VARIABLE, PROGRAM, command

    kind = get_completion_class(shell)
    if kind is not None:
        print(kind(command(), {}, PROGRAM, COMPLETE_VARIABLE).source())
