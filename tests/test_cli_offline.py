"""Commands that need no model and never import torch: ``plugins`` and ``schema``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from rlvr_core.cli import app
from rlvr_core.cli.plugins_command import default_words, type_words
from rlvr_core.cli.tables import table_lines
from rlvr_core.errors import UnknownComponent
from rlvr_core.plugins import catalogue
from rlvr_core.spec.resolve import resolve
from rlvr_core.spec.source import from_mapping

HEAVY = ("accelerate", "datasets", "numpy", "tokenizers", "torch", "transformers")
PROGRAM = """
import sys
from rlvr_core.cli import main
sys.argv = ["rlvr", *sys.argv[1:]]
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
sys.stdout.flush()
print("imported:", *(name for name in {heavy} if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""


def rlvr(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own; the last line of stderr says which heavy packages it imported."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(heavy=HEAVY), *arguments], capture_output=True, text=True, timeout=120
    )


def said(*arguments: str) -> str:
    """What a command prints, in this process. Raises what the command raises."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


class TestLight:
    """What only looks at what is installed is quick because nothing heavy is imported."""

    @pytest.mark.parametrize(
        "arguments",
        [
            ["plugins"],
            ["plugins", "show", "popo"],
            ["plugins", "show", "bounded_is"],
            ["schema"],
            ["--version"],
            ["--help"],
            ["plan", "--help"],
        ],
        ids=" ".join,
    )
    def test_a_command_prints_and_imports_nothing_heavy(self, arguments: list[str]) -> None:
        done = rlvr(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert done.stderr.splitlines()[-1].split() == ["imported:"]

    @pytest.mark.parametrize("command", ["run", "plan"])
    def test_a_mistake_in_a_spec_is_told_before_anything_heavy_is_imported(self, command: str) -> None:
        done = rlvr(command, "--set", "stpes=3", "--set", "objective.sampler.treshold=1")
        assert done.returncode == 2
        assert done.stdout == ""
        assert [line.split(": ")[:3] for line in done.stderr.splitlines()[:-1]] == [
            ["rlvr", "--set stpes=3", "stpes"],
            ["rlvr", "--set objective.sampler.treshold=1", "objective.sampler.treshold"],
        ]
        assert done.stderr.splitlines()[-1].split() == ["imported:"]

    def test_nothing_is_cut_off_where_the_output_is_no_terminal(self) -> None:
        done = rlvr("plugins", "show", "popo")
        for component in catalogue():
            if component.kind == "credit" and component.name == "bounded_is":
                assert component.options.model_fields["weights"].description in done.stdout
        assert "…" not in done.stdout


class TestPlugins:
    """``rlvr plugins`` shows what is installed, ``show`` every option."""

    def test_every_component_is_listed_with_all_that_identifies_it(self) -> None:
        lines = [line.split() for line in said("plugins").splitlines()]
        for component in catalogue():
            row = [component.kind, component.name, component.distribution, component.version, *component.summary.split()]
            assert row in lines

    def test_an_objective_is_shown_with_the_parts_it_is_assembled_from(self) -> None:
        rows = [line.split()[:4] for line in said("plugins", "show", "popo").splitlines()]
        version = catalogue().get("objective", "popo").version
        for part in (
            ["objective.sampler", "positive_only", "rlvr-popo", version],
            ["objective.credit", "bounded_is", "rlvr-popo", version],
            ["objective.loss", "bounded_is", "rlvr-popo", version],
            ["objective.references.twin", "ema_twin", "rlvr", version],
            ["objective.regularisers.similarity", "similarity", "rlvr-popo", version],
            ["objective.regularisers.entropy", "entropy", "rlvr", version],
        ):
            assert part in rows

    @pytest.mark.parametrize("name", catalogue().names("objective"))
    def test_every_option_of_every_part_of_an_objective_is_shown_with_its_description(self, name: str) -> None:
        text = said("plugins", "show", f"objective/{name}")
        lines = text.splitlines()
        found = resolve(
            from_mapping({"model": {"name": "m"}, "task": {"name": "arithmetic"}, "objective": {"name": name}}), catalogue()
        )
        for _, bound in found.objective.parts():
            for key, info in bound.component.options.model_fields.items():
                start = f"{'.'.join(bound.path)}.{key}={default_words(getattr(bound.options, key))}  ("
                (place,) = [number for number, line in enumerate(lines) if line.startswith(start)]
                assert lines[place + 1].strip() == info.description

    def test_type_default_and_the_papers_symbol_are_shown(self) -> None:
        assert "objective.references.twin.decay=0.995  (float >= 0, <= 1; tau in the paper)\n" in said("plugins", "show", "popo")

    def test_an_option_without_a_default_is_shown_as_required(self) -> None:
        assert "objective.regularisers.kl.coef  (float >= 0; required; beta in the paper)\n" in said("plugins", "show", "kl")

    def test_a_name_in_several_kinds_shows_each(self) -> None:
        text = said("plugins", "show", "bounded_is")
        assert "credit bounded_is: " in text
        assert "loss bounded_is: " in text

    def test_a_kind_before_the_name_shows_that_one(self) -> None:
        text = said("plugins", "show", "loss/bounded_is")
        assert "credit bounded_is: " not in text
        assert "loss bounded_is: " in text

    @pytest.mark.parametrize("component", list(catalogue()), ids=lambda c: f"{c.kind}/{c.name}")
    def test_every_component_can_be_shown(self, component: Any) -> None:
        text = said("plugins", "show", f"{component.kind}/{component.name}")
        assert component.summary in text
        assert all(f".{key}" in text for key in component.options.model_fields)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("popoo", "nothing installed is named 'popoo'; did you mean 'popo'?"),
            ("los/clipped", "no kind of component is named 'los'; did you mean 'loss'?"),
            ("loss/cliped", "no loss is named 'cliped'; did you mean 'clipped'?"),
        ],
    )
    def test_an_unknown_name_suggests_the_nearest(self, name: str, message: str) -> None:
        with pytest.raises(UnknownComponent) as caught:
            said("plugins", "show", name)
        assert str(caught.value).startswith(message)

    @pytest.mark.parametrize(
        ("schema", "words"),
        [
            ({"type": "number", "exclusiveMinimum": 0.0}, "float > 0"),
            ({"type": "integer", "minimum": 1, "maximum": 9}, "int >= 1, <= 9"),
            ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "str or null"),
            ({"enum": ["a", "b"], "type": "string"}, "a | b"),
            ({"const": "a"}, "a"),
            ({"type": "array", "items": {"type": "boolean"}}, "list of bool"),
            ({}, "any"),
        ],
    )
    def test_a_type_is_put_in_words(self, schema: Mapping[str, Any], words: str) -> None:
        assert type_words(schema) == words

    def test_a_table_on_a_terminal_wraps_its_last_column_and_loses_nothing(self) -> None:
        lines = table_lines([("a", "what"), ("bcd", "one two three four five six seven eight nine ten")], 40)
        assert max(map(len, lines)) <= 40
        assert lines[2].startswith("     ")
        assert " ".join(" ".join(lines[1:]).split()) == "bcd one two three four five six seven eight nine ten"


class TestSchema:
    """``rlvr schema`` prints what editors take."""

    def test_it_prints_a_schema_of_what_is_installed(self) -> None:
        schema = json.loads(said("schema"))
        Draft202012Validator.check_schema(schema)
        assert schema["properties"]["objective"]["properties"]["name"]["enum"] == catalogue().names("objective")
