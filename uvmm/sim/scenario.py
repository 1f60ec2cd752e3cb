# SPDX-License-Identifier: MIT
"""
Scenarios: what a simulation is about, from a TOML file.

The `...Text` classes are the file, word by word; `read` turns them into a `Scenario`
in pages and seconds. What each key means is in docs/policy.md.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from uvmm.errors import BadInputError
from uvmm.policy.parameters import Parameters, Wanted, parse
from uvmm.units import PAGE_BYTES, bytes_to_pages, parse_size, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED_DIR = Path(__file__).parent / "scenarios"
LARGEST_FILE_BYTES = 1 << 20
GUESTS_MAX = 100_000
STEPS_MAX = 1_000_000
GUEST_STEPS_MAX = 20_000_000  # some minutes
_SIZE_CHARACTERS = 64

Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
SomeSeconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
SizeText = Annotated[str, Field(max_length=_SIZE_CHARACTERS)]
NameText = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,62}$")]


class _Text(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PhaseText(_Text):
    """What a guest does from `at_s` after its start on."""

    at_s: Seconds = 0.0
    touched: SizeText
    active: SizeText
    sweep_s: SomeSeconds = 5.0
    cpu: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    zeros: bool = False


class _ParametersText(_Text):
    min: SizeText | None = None
    max: SizeText | None = None
    shares: Annotated[str, Field(max_length=_SIZE_CHARACTERS)] | int | None = None
    tax: SizeText | None = None
    balloon_max: SizeText | None = None

    def wanted(self) -> Wanted:
        """Return the words that `parameters.parse` takes."""
        return Wanted(
            min=self.min, max=self.max, tax=self.tax, balloon_max=self.balloon_max,
            shares=None if self.shares is None else str(self.shares),
        )


class GuestText(_ParametersText):
    """One guest, or `count` of its kind, one after another `every_s`."""

    name: NameText
    count: Annotated[int, Field(ge=1, le=GUESTS_MAX)] = 1
    start_s: Seconds = 0.0
    every_s: Seconds = 0.0
    stop_s: SomeSeconds | None = None
    balloon: bool = True
    balloon_after_s: Seconds = 0.0
    balloon_rate: SizeText = "256M"
    growth_rate: SizeText = "256M"
    miss_us: Seconds = 100.0
    phase: Annotated[list[PhaseText], Field(min_length=1, max_length=1000)]


class ChangeText(_ParametersText):
    """New parameters for a guest, or all of its kind."""

    at_s: Seconds
    guest: NameText


class MachineText(_Text):
    """The machine; `own` is what uvmm holds without guests."""

    memory: SizeText
    swap: SizeText
    own: SizeText = "0"
    page_out_rate: SizeText = "200M"


class ScenarioText(_Text):
    """The file."""

    title: Annotated[str, Field(max_length=200)]
    about: Annotated[str, Field(max_length=4000)] = ""
    duration_s: SomeSeconds
    step_s: Annotated[float, Field(ge=0.01, le=60, allow_inf_nan=False)] = 1.0
    seed: Annotated[int, Field(ge=0, le=1 << 62)] = 1
    machine: MachineText
    guest: Annotated[list[GuestText], Field(min_length=1, max_length=10_000)]
    change: Annotated[list[ChangeText], Field(max_length=10_000)] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """
    What a guest does from a moment after its start on.

    It comes to hold `touched_pages`, of which it uses `active_pages`, each about once in
    `sweep_s` of its execution; it executes for the `cpu` part of the time. New
    pages that it touches are `zeros`, or not.
    """

    at_s: float
    touched_pages: int
    active_pages: int
    sweep_s: float
    cpu: float
    zeros: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Guests that are alike; rates are in pages a second."""

    name: str
    count: int
    parameters: Parameters
    start_s: float
    every_s: float
    stop_s: float | None
    balloon: bool
    balloon_after_s: float
    balloon_rate: int
    growth_rate: int
    miss_s: float
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """New parameters for all guests of a kind."""

    at_s: float
    kind: str
    parameters: Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A machine, its guests, and what happens to them."""

    title: str
    about: str
    duration_s: float
    step_s: float
    seed: int
    memory_pages: int
    swap_pages: int
    own_pages: int
    page_out_rate: int
    kinds: tuple[Kind, ...]
    changes: tuple[Change, ...]


def shipped() -> list[str]:
    """Return the names of the scenarios that come with uvmm."""
    return sorted(path.stem for path in SHIPPED_DIR.glob("*.toml"))


def load(name: str) -> Scenario:
    """
    Read a scenario: a file, or one of those that come with uvmm by its name.

    Raises:
        BadInputError: If there is none, or it is not one; says what was expected
            and what is there.
    """
    path = SHIPPED_DIR / f"{name}.toml" if name in shipped() else Path(name)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise BadInputError(
            f"scenario {shown(name)}: {said}; give a file, or one of {', '.join(shipped())}"
        ) from None
    if len(raw) > LARGEST_FILE_BYTES:
        raise BadInputError(f"scenario {shown(name)}: the file is larger than 1M")
    try:
        return read(raw)
    except BadInputError as error:
        raise BadInputError(f"scenario {shown(name)}: {error}") from None


def read(raw: bytes) -> Scenario:
    """
    Return the scenario that a file says.

    Raises:
        BadInputError: If it is none.
    """
    try:
        words = tomllib.loads(raw.decode())
        text = ScenarioText.model_validate(words)
    except ValidationError as error:
        raise BadInputError(_first(error)) from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number too long
        raise BadInputError(f"it is no TOML: {error}") from None
    return _scenario(text)


def _scenario(text: ScenarioText) -> Scenario:
    machine = text.machine
    memory_pages = _size(machine.memory, "machine.memory")
    if not memory_pages:
        raise BadInputError(f"machine.memory: {shown(machine.memory)} is less than a page")
    own_pages = _size(machine.own, "machine.own", percent_of=memory_pages)
    if own_pages > memory_pages:
        raise BadInputError(f"machine.own: {machine.own} is more than memory, {machine.memory}")
    kinds = tuple(_kind(guest, memory_pages) for guest in text.guest)
    _check_cost(text)
    names = [kind.name for kind in kinds]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInputError(f"two guests are named {twice}; use count for guests of a kind")
    return Scenario(
        title=text.title, about=text.about, duration_s=text.duration_s, step_s=text.step_s,
        seed=text.seed, memory_pages=memory_pages,
        swap_pages=_size(machine.swap, "machine.swap"),
        own_pages=own_pages,
        page_out_rate=_size(machine.page_out_rate, "machine.page_out_rate"),
        kinds=kinds, changes=tuple(_changes(text, kinds, memory_pages)),
    )


def _check_cost(text: ScenarioText) -> None:
    steps = text.duration_s / text.step_s
    guests = sum(guest.count for guest in text.guest)
    if steps > STEPS_MAX:
        raise BadInputError(
            f"{text.duration_s:g} s in steps of {text.step_s:g} s are {steps:.0f} steps; "
            f"at most {STEPS_MAX}"
        )
    if guests > GUESTS_MAX:
        raise BadInputError(f"{guests} guests; at most {GUESTS_MAX}")
    if guests * steps > GUEST_STEPS_MAX:
        raise BadInputError(
            f"{guests} guests in {steps:.0f} steps would take too long; guests times steps "
            f"may be {GUEST_STEPS_MAX}: make step_s larger, or duration_s smaller"
        )


def _kind(text: GuestText, memory_pages: int) -> Kind:
    what = f"guest {text.name}"
    parameters = _parameters(text, memory_pages, what, base=None)
    max_pages = parameters.max_pages
    phases = tuple(_phase(phase, max_pages, what) for phase in text.phase)
    if any(later.at_s <= earlier.at_s for earlier, later in pairwise(phases)):
        raise BadInputError(f"{what}: each phase must begin later than the one before it")
    if phases[0].at_s:
        raise BadInputError(f"{what}: its first phase must begin at_s = 0")
    return Kind(
        name=text.name, count=text.count, parameters=parameters, start_s=text.start_s,
        every_s=text.every_s, stop_s=text.stop_s, balloon=text.balloon,
        balloon_after_s=text.balloon_after_s,
        balloon_rate=_size(text.balloon_rate, f"{what}, balloon_rate"),
        growth_rate=_size(text.growth_rate, f"{what}, growth_rate"),
        miss_s=text.miss_us / 1e6, phases=phases,
    )


def _phase(text: PhaseText, max_pages: int, what: str) -> Phase:
    touched = _size(text.touched, f"{what}, touched", percent_of=max_pages)
    active = _size(text.active, f"{what}, active", percent_of=max_pages)
    if not active <= touched <= max_pages:
        raise BadInputError(
            f"{what}, phase at {text.at_s:g} s: expected active <= touched <= max, got "
            f"{text.active} active, {text.touched} touched"
        )
    return Phase(
        at_s=text.at_s, touched_pages=touched, active_pages=active, sweep_s=text.sweep_s,
        cpu=text.cpu, zeros=text.zeros,
    )


def _changes(
    text: ScenarioText, kinds: tuple[Kind, ...], memory_pages: int
) -> Iterator[Change]:
    now = {kind.name: kind.parameters for kind in kinds}
    sizes = {kind.name: kind.parameters.max_pages for kind in kinds}
    for change in sorted(text.change, key=lambda change: change.at_s):
        base = now.get(change.guest)
        what = f"change at {change.at_s:g} s"
        if base is None:
            raise BadInputError(f"{what}: there is no guest {change.guest}")
        now[change.guest] = _parameters(change, memory_pages, what, base=base)
        if now[change.guest].max_pages > sizes[change.guest]:
            raise BadInputError(
                f"{what}: max {change.max} is more than the memory that {change.guest} was "
                "started with, which cannot grow"
            )
        yield Change(at_s=change.at_s, kind=change.guest, parameters=now[change.guest])


def _parameters(
    text: _ParametersText, memory_pages: int, what: str, *, base: Parameters | None
) -> Parameters:
    try:
        return parse(text.wanted(), memory_pages=memory_pages, base=base)
    except BadInputError as error:
        raise BadInputError(f"{what}: {error}") from None


def _size(text: str, what: str, *, percent_of: int | None = None) -> int:
    whole = None if percent_of is None else percent_of * PAGE_BYTES
    return bytes_to_pages(parse_size(text, percent_of=whole, what=what))


def _first(error: ValidationError) -> str:
    """Put the first thing that is wrong into words."""
    first = error.errors()[0]
    where = _where(first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where}: this key is unknown"
    if first["type"] == "missing":
        return f"{where}: this key is missing"
    expected = first["msg"].removeprefix("Input should be ")
    return f"{where}: expected {expected}, got {shown(_repr(first['input']))}"


def _where(loc: tuple[Any, ...]) -> str:
    """Name a place in the file, as `guest 2, phase 1, at_s`."""
    words: list[str] = []
    for part in loc:
        if isinstance(part, int) and words:
            words[-1] += f" {part + 1}"
        elif part not in {"int", "constrained-str"}:
            words.append(ascii(str(part))[1:-1][:_SIZE_CHARACTERS])
    return ", ".join(words) or "the file"


def _repr(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of very many digits"
    return repr(value)
