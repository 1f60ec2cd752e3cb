# SPDX-License-Identifier: MIT
"""Documents that are made from code, or name what is in it."""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import typer

from uvmm import knobs, schema
from uvmm.cli import app, command
from uvmm.config import FileConfig, load
from uvmm.counters import GUEST, MACHINE
from uvmm.documents import DOCS, documents
from uvmm.policy_file import load_policy
from uvmm.settings import Settings
from uvmm.sim.run import run as simulate
from uvmm.sim.scenario import load as load_scenario

if TYPE_CHECKING:
    from pathlib import Path

    import click


def options_of(name: str) -> set[str]:
    """The long options of a command."""
    group: Any = command()
    return {
        option for parameter in group.commands[name].params
        for option in parameter.opts if option.startswith("--")
    }


def commands() -> dict[str, click.Command]:
    found: Any = command()
    return dict(found.commands)


@pytest.mark.parametrize("name", sorted(documents()))
def test_documents_are_as_the_code_writes_them(name: str) -> None:
    assert (DOCS / name).read_text() == documents()[name], "run python -m uvmm.documents"


class TestKnobs:
    def test_they_are_what_up_takes(self) -> None:
        assert {knob.option for knob in knobs.DAEMON} == options_of("up") - {"--help"}

    def test_they_are_what_run_and_set_take(self) -> None:
        known = {knob.option for knob in knobs.GUEST}
        assert known == options_of("run") - {"--help", "--run-dir"}
        settable = {knob.option for knob in knobs.GUEST if knob.key}
        assert settable == options_of("set") - {"--help", "--run-dir", "--json"}
        assert {knob.key for knob in knobs.GUEST if knob.key} == set(
            schema.ChangeRequest.model_fields
        )

    def test_they_are_what_the_file_takes(self) -> None:
        assert {knob.key for knob in knobs.DAEMON if knob.key} == set(FileConfig.model_fields)
        assert set(FileConfig.model_fields) <= set(Settings.__dataclass_fields__)

    def test_the_file_that_init_writes_sets_nothing(self, tmp_path: Path) -> None:
        text = knobs.config_text()
        (tmp_path / "a.toml").write_text(text)
        assert load(tmp_path / "a.toml") == {}
        assert max(len(line) for line in text.splitlines()) <= 90

    def test_each_of_its_examples_is_a_setting(self, tmp_path: Path) -> None:
        text = re.sub(r"^#(\w)", r"\1", knobs.config_text(), flags=re.MULTILINE)
        file = tmp_path / "a.toml"
        file.write_text(text)
        assert set(load(file)) == set(FileConfig.model_fields) == set(tomllib.loads(text))


class TestHelp:
    @pytest.mark.parametrize("name", sorted(commands()))
    def test_each_command_has_examples_that_it_understands(self, name: str) -> None:
        one = commands()[name]
        context = typer.Context(one, info_name=name)
        words = one.get_help(context)
        _, _, told = words.partition("Examples:\n")
        lines = [line.strip() for line in told.split("\n\n")[0].splitlines()]
        assert lines, name
        for line in lines:
            argv = re.sub(r'^eval "\$\((.*)\)"$', r"\1", line).replace('""', "x").split()
            assert argv[:2] == ["uvmm", name]
            one.make_context(name, argv[2:])

    def test_statuses_are_told(self) -> None:
        words = command().get_help(typer.Context(command()))
        for status in ("0", "1", "2", "130", "141"):
            assert re.search(rf"^ +{status} +\w", words, re.MULTILINE), status

    def test_what_prints_figures_prints_json_too(self) -> None:
        silent = {
            "up", "down", "run", "top", "record", "completion", "mount", "umount",
        }
        for name in set(commands()) - silent:
            assert "--json" in options_of(name), name

    def test_each_group_of_commands_is_in(self) -> None:
        assert len(commands()) == sum(
            len(group.typer_instance.registered_commands)
            for group in app.registered_groups if group.typer_instance is not None
        )


class TestDashboard:
    def test_its_metrics_are_ours(self) -> None:
        text = (DOCS / "grafana-dashboard.json").read_text()
        board = json.loads(text)
        ours = {counter.full_name for counter in (*MACHINE, *GUEST) if counter.metric}
        expressions = [
            target["expr"] for panel in board["panels"] for target in panel["targets"]
        ]
        expressions += [one["query"]["query"] for one in board["templating"]["list"]]
        named = {name for one in expressions for name in re.findall(r"\buvmm_\w+", one)}
        assert named <= ours
        assert len(named) > 15
        assert all(one.count("(") == one.count(")") for one in expressions)
        for one in expressions:
            for counter in re.findall(r"\buvmm_\w+_total\b", one):
                assert re.search(rf"(rate|increase)\({counter}", one), one

    def test_its_panels_do_not_overlap(self) -> None:
        board = json.loads((DOCS / "grafana-dashboard.json").read_text())
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y) for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken
            assert max(x for x, _ in cells) < 24
            taken |= cells


def test_the_unit_starts_what_there_is() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DOCS / "uvmm.service")
    program, name, *given = unit["Service"]["ExecStart"].split()
    assert (program.endswith("/bin/uvmm"), name) == (True, "up")
    commands()[name].make_context(name, given)
    assert unit["Service"]["Type"] == "notify"


def test_links_of_documents_lead_somewhere() -> None:
    for document in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in link:
                assert (document.parent / link).exists(), (document.name, link)


def test_the_policy_of_the_howto_is_one(tmp_path: Path) -> None:
    text = (DOCS / "policy-howto.md").read_text()
    file = tmp_path / "inuse.py"
    file.write_text(text.partition("```python\n")[2].partition("```")[0])
    outcome = simulate(load_scenario("dynamic"), load_policy(file))
    assert outcome.policy == "in use"
    told = [one for name in outcome.guests for one in outcome.history.about(name)]
    assert {one.policy for one in told} == {"in use"}


def test_pictures_have_nothing_from_elsewhere() -> None:
    text = (DOCS / "top.svg").read_text()
    assert "STALL%" in text
    assert not re.search(r"(url\(|href=.|src=.)(https?:)?//", text)
