# SPDX-License-Identifier: MIT
"""The configuration file of `uvmm up --config`: TOML, the same words as the options."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from uvmm.errors import BadInputError
from uvmm.units import shown

if TYPE_CHECKING:
    from pathlib import Path


class FileConfig(BaseModel):
    """What the file may say; each is what the option of that name means."""

    model_config = ConfigDict(extra="forbid", strict=True)

    memory: str | int | None = None
    swap: str | None = None
    swap_size: str | int | None = None
    memory_via: Literal["fuse", "descriptor"] | None = None
    group: str | None = None
    share_cpu: str | int | float | None = None
    idle_cost: str | int | float | None = None
    low_memory: str | int | None = None
    remap_after: str | int | None = None
    http: str | int | None = None
    policy: str | None = None
    sample_pages: str | int | None = None
    sample_seconds: str | int | float | None = None
    tax: str | int | float | None = None
    balloon_max: str | int | None = None


def load(path: Path) -> dict[str, str]:
    """
    Read a configuration file.

    Returns:
        The settings that it gives, by name; a relative path is one from the file's
        directory, and returned in full.

    Raises:
        BadInputError: If it cannot be read, is no TOML, or has a key or a value
            that is not known; says what was expected.
    """
    try:
        raw = tomllib.loads(path.read_text())
        given = FileConfig.model_validate(raw)
    except OSError as error:
        raise BadInputError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInputError(f"--config {path} is no TOML: {error}") from None
    except ValidationError as error:
        raise BadInputError(f"--config {path}: {_first(error)}") from None
    said = {key: str(value) for key, value in given if value is not None}
    for file in ("swap", "policy"):
        if file in said:
            said[file] = str(path.absolute().parent / said[file])
    return said


def _first(error: ValidationError) -> str:
    """Put the first thing that is wrong into words."""
    first = error.errors()[0]
    key = shown(str(first["loc"][0]))
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}; expected {', '.join(FileConfig.model_fields)}"
    return f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}"
