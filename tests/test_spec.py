"""Specs: every mistake is found before anything runs, named with its place and a way out; what is right means one thing."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from rlvr_core.errors import SpecError
from rlvr_core.options import Options, option
from rlvr_core.plugins import Catalogue, Component, catalogue
from rlvr_core.spec.model import LearnerSection, Spec
from rlvr_core.spec.parts import LABELLED_SLOTS, SINGLE_SLOTS, Objective
from rlvr_core.spec.resolve import resolve
from rlvr_core.spec.resolved import Resolved
from rlvr_core.spec.schema import json_schema, options_schema
from rlvr_core.spec.source import Source, apply_assignments, from_mapping, parse_assignment, parse_yaml, read_spec, to_yaml

ROOT = Path(__file__).parent.parent
SHIPPED = sorted([*ROOT.glob("specs/*.yaml"), *ROOT.glob("rlvr_core/specs/*.yaml"), *ROOT.glob("plugins/*/specs/*.yaml")])

BASE = """\
model: {name: some/model}
task: {name: arithmetic}
objective: {name: popo}
"""


def resolved(text: str = "", *assignments: str) -> Resolved:
    """A small spec with more keys behind it, and assignments laid over."""
    source = parse_yaml(BASE + text, "spec.yaml")
    apply_assignments(source, assignments)
    return resolve(source, catalogue())


def mistakes(text: str = "", *assignments: str, base: str = BASE) -> list[str]:
    """What is wrong with it, a line each."""
    with pytest.raises(SpecError) as caught:
        source = parse_yaml(base + text, "spec.yaml")
        apply_assignments(source, assignments)
        resolve(source, catalogue())
    assert "\n".join(caught.value.lines) == str(caught.value)
    return list(caught.value.lines)


def the_mistake(text: str = "", *assignments: str, base: str = BASE) -> str:
    """The one thing that is wrong."""
    (line,) = mistakes(text, *assignments, base=base)
    return line


def objective(text: str) -> str:
    """A base whose objective is this."""
    return BASE.replace("objective: {name: popo}\n", "objective:\n" + "".join(f"  {line}\n" for line in text.splitlines()))


class TestYaml:
    """YAML as people mean it."""

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("1e-6", 1e-6),
            ("2E3", 2000.0),
            ("1.5e+2", 150.0),
            (".5", 0.5),
            ("-.inf", float("-inf")),
            (".INF", float("inf")),
            ("3", 3),
            ("-7", -7),
            ("true", True),
            ("False", False),
            ("on", "on"),
            ("no", "no"),
            ("yes", "yes"),
            ("off", "off"),
            ("1:30", "1:30"),
            ("1_000", "1_000"),
            ("2024-05-01", "2024-05-01"),
            ("null", None),
            ("~", None),
            ("'1e-6'", "1e-6"),
        ],
    )
    def test_a_scalar_means_what_yaml_1_2_says(self, written: str, meant: Any) -> None:
        read = parse_yaml(f"key: {written}", "spec.yaml").data["key"]
        assert (read, type(read)) == (meant, type(meant))

    def test_not_a_number_is_one(self) -> None:
        read = parse_yaml("key: .nan", "spec.yaml").data["key"]
        assert read != read

    @pytest.mark.parametrize(
        "value", ["1e5", "on", "true", "1_000", "~", "", "2024-05-01", "0x1f", "=", "<<", " x", "a: b", "#", "é"]
    )
    def test_text_that_looks_like_something_else_survives_writing(self, value: str) -> None:
        assert parse_yaml(to_yaml({"key": value}), "spec.yaml").data == {"key": value}

    def test_a_key_given_twice_is_an_error_with_both_lines(self) -> None:
        assert the_mistake("steps: 3\nseed: 1\nsteps: 4\n") == "spec.yaml:6: 'steps' is given twice; first at spec.yaml:4"

    def test_a_key_given_twice_deep_inside_is_an_error(self) -> None:
        line = the_mistake("rollout:\n  engine:\n    name: transformers\n    name: transformers\n")
        assert line == "spec.yaml:7: 'rollout.engine.name' is given twice; first at spec.yaml:6"

    @pytest.mark.parametrize("text", ["a: [1", "a: b: c", "a: 'x", "\tx: 1", "a: \x00"])
    def test_what_is_no_yaml_is_an_error_on_one_line(self, text: str) -> None:
        line = the_mistake(text, base="")
        assert line.startswith("spec.yaml")
        assert "not YAML" in line

    @pytest.mark.parametrize("text", ["a: !!python/object/apply:os.getcwd []", "a: =", "a: !mine 3", f"a: {'1' * 5000}"])
    def test_yaml_that_holds_more_than_data_is_an_error(self, text: str) -> None:
        assert "not YAML" in the_mistake(text, base="")

    def test_a_yaml_mistake_names_its_line(self) -> None:
        assert the_mistake("steps: [1\nseed: 2\n").startswith("spec.yaml:5: not YAML")

    @pytest.mark.parametrize("text", ["- a\n- b\n", "just text"])
    def test_a_spec_that_is_no_mapping_is_an_error(self, text: str) -> None:
        assert the_mistake(text, base="") == "spec.yaml:1: a spec is a mapping of keys to values"

    def test_an_alias_that_holds_itself_is_an_error(self) -> None:
        assert the_mistake("a: &x\n  b: *x\n", base="") == "spec.yaml: nested too deep, or an alias that holds itself"

    def test_a_key_that_is_no_word_is_an_error(self) -> None:
        assert the_mistake("? [a, b]\n: 1\n", base="") == "spec.yaml:1: a key must be a plain word"

    def test_an_empty_spec_lacks_what_is_required(self) -> None:
        assert {line.split(": ")[1] for line in mistakes(base="")} == {"model", "task", "objective"}


class TestFiles:
    """A spec file that cannot be read is named."""

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"nowhere\.yaml: no such spec file"):
            read_spec(tmp_path / "nowhere.yaml")

    def test_a_runs_folder_is_answered_with_the_spec_in_it(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"is a folder; .*spec\.yaml"):
            read_spec(tmp_path)

    def test_a_file_that_is_no_text_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(SpecError, match=r"s\.yaml: cannot be read"):
            read_spec(tmp_path / "s.yaml")

    @pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
    def test_shipped_specs_resolve(self, file: Path) -> None:
        assert resolve(read_spec(file), catalogue()).objective.name in catalogue().names("objective")


class TestMistakes:
    """Each names the line, the key, what is wrong and the way out."""

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("stpes: 3\n", "spec.yaml:4: stpes: unknown key; did you mean 'steps'?"),
            ("rollout:\n  group_sise: 3\n", "spec.yaml:5: rollout.group_sise: unknown key; did you mean 'group_size'?"),
            ("group_size: 3\n", "spec.yaml:4: group_size: unknown key; it belongs into rollout, as rollout.group_size"),
            ("steps: many\n", "spec.yaml:4: steps: input should be a valid integer, not 'many'"),
            ("steps: 1e3\n", "spec.yaml:4: steps: input should be a valid integer, not 1000.0"),
            ("steps: '3'\n", "spec.yaml:4: steps: input should be a valid integer, not '3'"),
            ("steps: true\n", "spec.yaml:4: steps: input should be a valid integer, not True"),
            ("steps: 0\n", "spec.yaml:4: steps: input should be greater than or equal to 1, not 0"),
            ("learner: {beta1: 1.0}\n", "spec.yaml:4: learner.beta1: input should be less than 1, not 1.0"),
            ("rollout: {temperature: 0}\n", "spec.yaml:4: rollout.temperature: input should be greater than 0, not 0"),
            (
                "rollout: {on_empty: on}\n",
                "spec.yaml:4: rollout.on_empty: input should be 'skip', 'resample' or 'stop', not 'on'",
            ),
            ("learner:\n", "spec.yaml:4: learner: write a mapping of keys to values"),
            ("rewards: math\n", "spec.yaml:4: rewards: write a mapping, as {name: math}"),
            ("rewards: {}\n", "spec.yaml:4: rewards: a run needs at least one reward"),
            ("rewards: {math: {weight: much}}\n", "spec.yaml:4: rewards.math.weight: 'much' is not a number"),
            ("rewards: {mine: {weight: 2}}\n", "spec.yaml:4: rewards.mine: no reward is named 'mine'; known: "),
            ("rewards: {math: {boxed: true}}\n", "spec.yaml:4: rewards.math.boxed: unknown key; "),
            ("rewards: {mine: {name: mth}}\n", "spec.yaml:4: rewards.mine.name: no reward is named 'mth'; did you mean 'math'?"),
            ("rollout: {engine: {name: vlm}}\n", "spec.yaml:4: rollout.engine.name: no rollout is named 'vlm'; "),
            (
                "observers: {progress: {every: 0}}\n",
                "spec.yaml:4: observers.progress.every: input should be greater than or equal to 1",
            ),
        ],
    )
    def test_a_mistake_is_named(self, text: str, line: str) -> None:
        assert the_mistake(text).startswith(line)

    @pytest.mark.parametrize(
        ("base", "line"),
        [
            (BASE.replace("{name: popo}", "popo"), "spec.yaml:3: objective: write a mapping, as {name: popo}"),
            (objective("sampler: {name: all}"), "spec.yaml:3: objective: needs a name; known: "),
            (objective("name: pop"), "spec.yaml:4: objective.name: no objective is named 'pop'; did you mean 'popo'?"),
            (
                objective("name: popo\nsmapler: {name: all}"),
                "spec.yaml:5: objective.smapler: no such part of an objective; did you mean 'sampler'?",
            ),
            (objective("name: popo\npaper: mine"), "spec.yaml:5: objective.paper: no such part of an objective"),
            (
                objective("name: popo\nsampler: all"),
                "spec.yaml:5: objective.sampler: write a mapping with a name, as {name: all}",
            ),
            (objective("name: popo\ncredit:"), "spec.yaml:5: objective.credit: cannot be left out"),
            (objective("name: popo\nregularisers:"), "spec.yaml:5: objective.regularisers: write a mapping of labels to parts"),
            (
                objective("name: popo\nsampler:\n  treshold: 1.0"),
                "spec.yaml:6: objective.sampler.treshold: unknown key; did you mean 'threshold'?",
            ),
            (
                objective("name: popo\nreferences: {twin: {decay: 1.5}}"),
                "spec.yaml:5: objective.references.twin.decay: input should be less than or equal to 1, not 1.5",
            ),
            (
                objective("name: popo\nregularisers: {kl: {to: twin}}"),
                "spec.yaml:5: objective.regularisers.kl.coef: is required",
            ),
            (
                objective("name: popo\nregularisers: {similarity: {to: twn}}"),
                "spec.yaml:5: objective.regularisers.similarity.to: no reference is labelled 'twn'; did you mean 'twin'?",
            ),
            (
                objective("name: popo\nregularisers: {similarty: null}"),
                "spec.yaml:5: objective.regularisers.similarty: nothing to remove: the objective has no such part; did you mean ",
            ),
            (
                objective("name: popo\nloss_agg_mode: mean"),
                "spec.yaml:5: objective.loss_agg_mode: input should be 'token-mean', ",
            ),
        ],
    )
    def test_a_mistake_in_an_objective_is_named(self, base: str, line: str) -> None:
        assert the_mistake(base=base).startswith(line)

    def test_a_missing_part_of_ours_says_what_to_install(self) -> None:
        core = Catalogue({(c.kind, c.name): c for c in catalogue() if c.distribution == "rlvr"})
        with pytest.raises(
            SpecError, match=r"spec.yaml:3: objective.name: .*pip install rlvr-popo .*pip install -e plugins/popo"
        ):
            resolve(parse_yaml(BASE, "spec.yaml"), core)

    def test_several_mistakes_are_told_at_once(self) -> None:
        text = "stpes: 3\nlearner: {learning_rate: -1}\nrewards: {math: {boxed: 1}}\n"
        base = objective("name: popo\nsampler: {treshold: 1}\ncredit: {weights: none}")
        where = [line.split(": ")[1] for line in mistakes(text, base=base)]
        assert sorted(where) == [
            "learner.learning_rate", "objective.credit.weights", "objective.sampler.treshold", "rewards.math.boxed", "stpes",
        ]  # fmt: skip

    def test_a_mistake_that_core_and_a_part_both_see_is_told_once(self) -> None:
        assert the_mistake("rewards: {math: 3}\n") == "spec.yaml:4: rewards.math: write a mapping of keys to values"

    def test_a_validator_of_a_plugin_speaks_for_itself(self) -> None:
        base = BASE.replace("{name: arithmetic}", "{name: arithmetic, min_operands: 5, max_operands: 3}")
        assert the_mistake(base=base) == "spec.yaml:2: task: min_operands (5) is above max_operands (3)"


class TestDefaultsOfADevice:
    """Sizes that are left to the device."""

    @pytest.mark.parametrize(
        ("device", "microbatch", "chunk"), [("cpu", 2048, 1024), ("cuda", 16384, 4096), ("mps", 16384, 4096)]
    )
    def test_an_accelerator_takes_more_at_once(self, device: str, microbatch: int, chunk: int) -> None:
        assert LearnerSection().microbatch_tokens(device) == microbatch
        assert LearnerSection().chunk_tokens(device) == chunk

    def test_what_is_written_holds_everywhere(self) -> None:
        written = LearnerSection(max_tokens_per_microbatch=5, logprob_chunk_tokens=7)
        assert [(written.microbatch_tokens(d), written.chunk_tokens(d)) for d in ("cpu", "cuda")] == [(5, 7)] * 2


class TestNoEffect:
    """An option that the user wrote and that does nothing is a mistake; a default that does nothing is not."""

    @pytest.mark.parametrize(
        ("base", "path"),
        [
            (BASE + "evaluation: {problems: 0, every: 5}\n", "evaluation.every"),
            (BASE + "evaluation: {temperature: 0.0, samples: 4}\n", "evaluation.samples"),
            (objective("name: popo\ncredit: {weights: uniform, temperature: 2.0}"), "objective.credit.temperature"),
            (objective("name: grpo\nreferences: {frozen: {}}"), "objective.references.frozen"),
            (
                objective("name: popo\nreferences: {twin: {decay: 0.9}}\nregularisers: {similarity: null}"),
                "objective.references.twin",
            ),
            (
                objective("name: popo\nreferences: {twin: {decay: 0.9}}\nregularisers: {similarity: {coef: 0}}"),
                "objective.references.twin",
            ),
            (
                objective("name: popo\nregularisers: {similarity: {coef: 0, noise: 0.1}}"),
                "objective.regularisers.similarity.noise",
            ),
            (objective("name: popo\nregularisers: {entropy: {coef: 0.0, scope: all}}"), "objective.regularisers.entropy.scope"),
            (BASE + "rollout: {engine: {graphs: false, compile: true}}\n", "rollout.engine.compile"),
            (BASE + "rollout: {engine: {graphs: true, shrink: 0.5}}\n", "rollout.engine.shrink"),
        ],
    )
    def test_an_option_without_effect_is_named_with_the_reason(self, base: str, path: str) -> None:
        line = the_mistake(base=base)
        assert f": {path}: has no effect: " in line

    def test_an_option_set_to_its_default_counts_as_written(self) -> None:
        assert "has no effect" in the_mistake(base=objective("name: popo\ncredit: {weights: uniform, temperature: 1.0}"))

    def test_defaults_without_effect_are_let_be(self) -> None:
        found = resolved("", "objective.regularisers.similarity.coef=0", "objective.credit.weights=uniform")
        assert dict(found.objective.references) == {}

    def test_the_coefficient_itself_has_an_effect_when_it_is_0(self) -> None:
        found = resolved("", "objective.regularisers.entropy.coef=0")
        assert found.objective.as_dict()["regularisers"]["entropy"] == {"name": "entropy", "coef": 0.0}

    def test_options_without_effect_are_not_written_down(self) -> None:
        found = resolved("", "objective.credit.weights=uniform", "evaluation.problems=0")
        assert "temperature" not in found.as_dict()["objective"]["credit"]
        assert found.as_dict()["evaluation"] == {"problems": 0}


class TestAssignments:
    """``--set path=value``: YAML on the right, named in every error."""

    @pytest.mark.parametrize(
        ("text", "path", "value"),
        [
            ("steps=3", ("steps",), 3),
            ("learner.learning_rate=1e-6", ("learner", "learning_rate"), 1e-6),
            ("prompt.chat=on", ("prompt", "chat"), "on"),
            ("prompt.template=a={prompt}", ("prompt", "template"), "a={prompt}"),
            ("objective.correction=null", ("objective", "correction"), None),
            ("rollout.stop=[a, b]", ("rollout", "stop"), ["a", "b"]),
            ("objective.sampler={name: all}", ("objective", "sampler"), {"name": "all"}),
            (" steps =3", ("steps",), 3),
        ],
    )
    def test_an_assignment_is_a_path_and_yaml(self, text: str, path: tuple[str, ...], value: Any) -> None:
        assert parse_assignment(text) == (path, value)

    @pytest.mark.parametrize("text", ["steps", "=3", "a..b=3", ".a=3", "steps=[1", "a=!x 3"])
    def test_an_assignment_that_is_none_is_named(self, text: str) -> None:
        with pytest.raises(SpecError) as caught:
            parse_assignment(text)
        assert str(caught.value).startswith(f"--set {text}: ")

    @pytest.mark.parametrize(
        "text", ["steps=many", "learner.learning_rat=1", "objective.sampler.treshold=1", "objective.name=pop"]
    )
    def test_a_wrong_value_is_blamed_on_the_assignment(self, text: str) -> None:
        assert the_mistake("", text).startswith(f"--set {text}: {text.partition('=')[0]}: ")

    def test_an_assignment_through_a_number_is_refused(self) -> None:
        line = the_mistake("steps: 3\n", "steps.more=4")
        assert line == "--set steps.more=4: steps is 3, not a mapping, so it has no key 'more'"

    def test_the_last_assignment_holds(self) -> None:
        assert resolved("steps: 1\n", "steps=2", "steps=3").spec.steps == 3

    def test_an_assignment_reaches_where_the_file_says_null(self) -> None:
        source = parse_yaml(objective("name: popo\nregularisers: {entropy: null}"), "spec.yaml")
        apply_assignments(source, ["objective.regularisers.entropy.coef=0.5"])
        found = resolve(source, catalogue())
        assert found.objective.regularisers["entropy"].options.coef == 0.5


class TestParts:
    """Parts can be replaced, changed and removed, one line each."""

    def test_an_option_is_laid_over_the_objectives_own(self) -> None:
        twin = resolved("", "objective.references.twin.decay=1.0").objective.references["twin"]
        assert (twin.component.name, twin.options.decay) == ("ema_twin", 1.0)

    def test_another_name_resets_the_objectives_options(self) -> None:
        found = resolved("", "objective.sampler.name=all").objective.sampler
        assert (found.component.name, found.as_dict()) == ("all", {"name": "all"})

    def test_another_name_resets_the_files_options(self) -> None:
        source = parse_yaml(objective("name: popo\nsampler: {name: positive_only, threshold: 0.5}"), "spec.yaml")
        apply_assignments(source, ["objective.sampler.name=all"])
        assert resolve(source, catalogue()).objective.sampler.as_dict() == {"name": "all"}

    def test_another_name_resets_options_that_the_file_said_of_the_default_part(self) -> None:
        source = parse_yaml(objective("name: popo\nsampler: {threshold: 0.5}"), "spec.yaml")
        apply_assignments(source, ["objective.sampler.name=all"])
        assert resolve(source, catalogue()).objective.sampler.as_dict() == {"name": "all"}

    def test_the_same_name_keeps_options_that_the_file_said_of_the_default_part(self) -> None:
        source = parse_yaml(objective("name: popo\nsampler: {threshold: 0.5}"), "spec.yaml")
        apply_assignments(source, ["objective.sampler.name=positive_only"])
        assert resolve(source, catalogue()).objective.sampler.options.threshold == 0.5

    def test_options_set_after_another_name_are_the_new_parts(self) -> None:
        source = parse_yaml(objective("name: grpo\ncorrection: {clip: 3.0}"), "spec.yaml")
        apply_assignments(source, ["objective.correction.name=masked", "objective.correction.clip=4.0"])
        found = resolve(source, catalogue()).objective.correction
        assert found is not None
        assert (found.component.name, found.options.clip) == ("masked", 4.0)

    def test_the_same_name_keeps_the_objectives_options(self) -> None:
        base = objective("name: popo\nreferences: {twin: {name: ema_twin}}")
        twin = resolve(parse_yaml(base, "spec.yaml"), catalogue()).objective.references["twin"]
        assert twin.options.decay == 0.995

    def test_another_objective_drops_the_files_changes_to_the_first(self) -> None:
        source = parse_yaml(objective("name: popo\nsampler: {threshold: 0.5}"), "spec.yaml")
        apply_assignments(source, ["objective.name=grpo"])
        assert resolve(source, catalogue()).objective.sampler.component.name == "all"

    def test_another_model_keeps_how_it_is_loaded(self) -> None:
        source = parse_yaml(BASE.replace("{name: some/model}", "{name: some/model, dtype: bfloat16}"), "spec.yaml")
        apply_assignments(source, ["model.name=other/model"])
        found = resolve(source, catalogue()).spec.model
        assert (found.name, found.dtype) == ("other/model", "bfloat16")

    def test_null_removes_a_labelled_part_and_its_reference(self) -> None:
        found = resolved("", "objective.regularisers.similarity=null").objective
        assert list(found.regularisers) == ["entropy"]
        assert dict(found.references) == {}

    def test_null_removes_the_correction(self) -> None:
        assert resolved("", "objective.correction=null").objective.correction is None

    def test_a_label_is_a_name_where_none_is_given(self) -> None:
        found = resolved("", "objective.regularisers.kl.coef=0.1", "objective.regularisers.kl.to=twin").objective
        assert found.regularisers["kl"].component.name == "kl"

    def test_one_component_may_stand_under_two_labels(self) -> None:
        base = objective(
            "name: grpo\nreferences: {a: {name: frozen}, b: {name: ema_twin}}\n"
            "regularisers: {x: {name: kl, coef: 0.1, to: a}, y: {name: kl, coef: 0.2, to: b}}"
        )
        found = resolve(parse_yaml(base, "spec.yaml"), catalogue()).objective.regularisers
        assert [found[label].options.coef for label in "xy"] == [0.1, 0.2]

    def test_the_engine_needs_no_name_to_be_tuned(self) -> None:
        found = resolved("", "rollout.engine.max_rows=3").engine
        assert (found.component.name, found.options.max_rows) == ("transformers", 3)

    def test_a_reward_has_a_weight_of_1_unless_told_otherwise(self) -> None:
        found = resolved("rewards: {math: {}, exact: {weight: 2}}\n").rewards
        assert {label: bound.weight for label, bound in found.items()} == {"math": 1.0, "exact": 2.0}

    def test_num_generations_is_the_group_size(self) -> None:
        assert resolved("rollout: {num_generations: 3}\n").spec.rollout.group_size == 3


class TestNotebook:
    """A mapping is a spec too."""

    DATA: Mapping[str, Any] = {"model": {"name": "m"}, "task": {"name": "arithmetic"}, "objective": {"name": "popo"}}

    def test_text_stays_text(self) -> None:
        assert from_mapping({"rollout": {"stop": ["1e5", "on"]}}).data == {"rollout": {"stop": ["1e5", "on"]}}

    def test_the_callers_mapping_is_left_alone(self) -> None:
        data = copy.deepcopy(dict(self.DATA))
        source = from_mapping(data)
        apply_assignments(source, ["objective.sampler.threshold=0.5", "model.name=n"])
        assert data == self.DATA

    def test_a_path_is_text(self) -> None:
        assert from_mapping({"output": Path("runs/a")}).data == {"output": "runs/a"}

    def test_what_yaml_cannot_hold_is_named(self) -> None:
        with pytest.raises(SpecError, match=r"spec: learner.learning_rate is a complex"):
            from_mapping({"learner": {"learning_rate": 1j}})

    def test_a_mistake_in_a_mapping_names_the_key(self) -> None:
        with pytest.raises(SpecError, match=r"^spec: steps: input should be a valid integer"):
            resolve(from_mapping({**self.DATA, "steps": "x"}), catalogue())


def is_same_again(found: Resolved) -> None:
    """Its resolved spec, written and read, resolves to itself, and the schema takes it."""
    text = to_yaml(found.as_dict())
    again = resolve(parse_yaml(text, "spec.yaml"), catalogue())
    assert again.as_dict() == found.as_dict()
    assert again.output == found.output
    assert list(VALIDATOR.iter_errors(parse_yaml(text, "spec.yaml").data)) == []


SCHEMA = json_schema(catalogue())
VALIDATOR = Draft202012Validator(SCHEMA)


def values(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that an option's schema allows."""
    if "anyOf" in schema:
        return st.one_of([values(choice) for choice in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "integer":
            low = schema.get("minimum", 0)
            return st.integers(low, schema.get("maximum", low + 10**6))
        case "number":
            low, high = (
                schema.get("minimum", schema.get("exclusiveMinimum", -1e6)),
                schema.get("maximum", schema.get("exclusiveMaximum", 1e6)),
            )
            open_low, open_high = "exclusiveMinimum" in schema, "exclusiveMaximum" in schema
            return st.floats(low, high, exclude_min=open_low, exclude_max=open_high, allow_nan=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array":
            return st.lists(values(schema["items"]), max_size=3)
    return st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Z", "S"]), min_size=1, max_size=8)


def parts_of(name: str) -> Iterator[tuple[str, Component]]:
    """(path, component) of an objective's parts."""
    default = catalogue().get("objective", name).objective
    assert default is not None
    for slot, kind in SINGLE_SLOTS.items():
        if getattr(default, slot):
            yield f"objective.{slot}", catalogue().get(kind, getattr(default, slot)["name"])
    for slot, kind in LABELLED_SLOTS.items():
        for label, part in getattr(default, slot).items():
            yield f"objective.{slot}.{label}", catalogue().get(kind, part["name"])


@st.composite
def overrides(draw: st.DrawFn) -> dict[str, Any]:
    """An objective, some of its options changed, some options of core's sections too."""
    name = draw(st.sampled_from(catalogue().names("objective")))
    choices = {f"{path}.{key}": schema for path, part in parts_of(name) for key, schema in options_schema(part.options).items()}
    for section in ("rollout", "learner", "evaluation", "checkpoint", "model"):
        for key, schema in SCHEMA["properties"][section]["properties"].items():
            if key not in ("engine", "num_generations", "name"):
                choices[f"{section}.{key}"] = schema
    paths = draw(st.lists(st.sampled_from([path for path in choices if not path.endswith(".to")]), max_size=6, unique=True))
    return {"objective.name": name, **{path: draw(values(choices[path])) for path in paths}}


class TestRoundTrip:
    """A resolved spec is a spec, and resolves to itself."""

    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(overrides())
    def test_whatever_was_changed(self, changes: dict[str, Any]) -> None:
        source = parse_yaml(BASE, "spec.yaml")
        for path, value in changes.items():
            source.set(tuple(path.split(".")), value, path)
        try:
            found = resolve(source, catalogue())
        except SpecError:  # an option without effect, or values that exclude each other
            reject()
        is_same_again(found)

    @pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
    def test_of_shipped_specs(self, file: Path) -> None:
        is_same_again(resolve(read_spec(file), catalogue()))

    @pytest.mark.parametrize("name", catalogue().names("objective"))
    def test_of_every_objective(self, name: str) -> None:
        is_same_again(resolved("", f"objective.name={name}"))

    @pytest.mark.parametrize(
        "assignments",
        [
            ["objective.regularisers.similarity=null"],
            ["objective.regularisers.similarity.coef=0"],
            ["objective.correction=null"],
            [
                "objective.references.other.name=frozen",
                "objective.regularisers.similarity.to=other",
                "objective.references.twin=null",
            ],
            ["objective.credit.weights=uniform"],
            ["evaluation.problems=0"],
            ["prompt.max_length=5", "prompt.too_long=drop"],
            ["rollout.stop=['1e5', 'on', '</a>']"],
            ["rewards={mine: {name: exact, weight: 0.5}, math: {}}", "observers={}"],
        ],
    )
    def test_of_parts_removed_replaced_and_switched_off(self, assignments: list[str]) -> None:
        is_same_again(resolved("", *assignments))


class TestSchema:
    """The JSON Schema takes what the resolver takes, and flags what an editor should."""

    def test_it_is_a_schema_of_draft_2020_12(self) -> None:
        Draft202012Validator.check_schema(SCHEMA)
        assert SCHEMA["$schema"].endswith("2020-12/schema")

    def test_it_is_plain_json(self) -> None:
        assert json.loads(json.dumps(SCHEMA)) == SCHEMA

    @pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
    def test_shipped_specs_pass(self, file: Path) -> None:
        assert list(VALIDATOR.iter_errors(read_spec(file).data)) == []

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "rollout: {num_generations: 3, engine: {max_rows: 3}}",
            "rewards: {math: {}, exact: {weight: 2.5}, mine: {name: math}}",
            "observers: {progress: {every: 3}}",
            "objective: {name: popo, sampler: {threshold: 0.5}, regularisers: {entropy: null}}",
            "objective: {name: popo, sampler: {name: all}, correction: null}",
            "objective: {name: popo, references: {twin: {decay: 1.0}}, regularisers: {kl: {coef: 0.1, to: twin}}}",
            "objective: {name: grpo, references: {r: {name: frozen}}, regularisers: {mine: {name: kl, coef: 0.1, to: r}}}",
            "task: {name: jsonl, path: rows.jsonl, answer_after: '####'}",
        ],
    )
    def test_sensible_specs_pass_it_and_resolve(self, text: str) -> None:
        data = {**parse_yaml(BASE, "base").data, **parse_yaml(text, "text").data}
        assert list(VALIDATOR.iter_errors(data)) == []
        assert resolve(from_mapping(data), catalogue())

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("stpes: 3", []),
            ("rollout: {group_sise: 3}", ["rollout"]),
            ("rollout: {engine: {max_row: 3}}", ["rollout", "engine"]),
            ("steps: 0", ["steps"]),
            ("steps: 1.5", ["steps"]),
            ("rewards: {}", ["rewards"]),
            ("rewards: {math: {boxed: true}}", ["rewards", "math"]),
            ("rewards: {mine: {weight: 2}}", ["rewards", "mine"]),
            ("task: {name: jsonl}", ["task"]),
            ("task: {name: jsnl, path: x}", ["task", "name"]),
            ("objective: {name: pop}", ["objective", "name"]),
            ("objective: {name: popo, smapler: {}}", ["objective"]),
            ("objective: {name: popo, sampler: {treshold: 1}}", ["objective", "sampler"]),
            ("objective: {name: popo, sampler: {name: all, threshold: 1}}", ["objective", "sampler"]),
            ("objective: {name: popo, sampler: null}", ["objective", "sampler"]),
            ("objective: {name: popo, references: {twin: {decay: 2}}}", ["objective", "references", "twin", "decay"]),
            ("objective: {name: popo, regularisers: {kl: {to: twin}}}", ["objective", "regularisers", "kl"]),
            ("objective: {name: popo, regularisers: {mine: {coef: 1}}}", ["objective", "regularisers", "mine"]),
            ("objective: {name: popo, loss_agg_mode: mean}", ["objective", "loss_agg_mode"]),
        ],
    )
    def test_a_typo_is_flagged_where_it_stands_and_does_not_resolve(self, text: str, place: list[str]) -> None:
        data = {**parse_yaml(BASE, "base").data, **parse_yaml(text, "text").data}
        error = best_match(VALIDATOR.iter_errors(data))
        assert error is not None
        assert list(error.absolute_path) == place
        with pytest.raises(SpecError):
            resolve(from_mapping(data), catalogue())

    def test_an_objectives_own_options_are_its_parts_defaults_and_need_not_be_given(self) -> None:
        mine = Objective(
            credit={"name": "gae", "lam": 0.5},
            loss={"name": "clipped"},
            references={"old": {"name": "frozen"}},
            regularisers={"kl": {"name": "kl", "coef": 0.25, "to": "old"}},
        )
        component = Component("objective", "mine", "", Options, "mine", "rlvr-mine", "1", mine)
        installed = Catalogue({**{(c.kind, c.name): c for c in catalogue()}, ("objective", "mine"): component})
        schema = json_schema(installed)
        parts = standing(
            standing(schema["properties"]["objective"], "mine")["properties"]["regularisers"]["properties"]["kl"], "kl"
        )
        assert parts["properties"]["coef"]["default"] == 0.25
        credit = standing(standing(schema["properties"]["objective"], "mine")["properties"]["credit"], "gae")
        assert credit["properties"]["lam"]["default"] == 0.5
        data = {**parse_yaml(BASE, "base").data, "objective": {"name": "mine", "regularisers": {"kl": {"estimator": "k1"}}}}
        assert list(Draft202012Validator(schema).iter_errors(data)) == []
        assert resolve(from_mapping(data), installed)

    def test_every_section_and_option_is_described(self) -> None:
        undescribed = [place for place, schema in described_places(SCHEMA["properties"], "") if not schema.get("description")]
        assert undescribed == []

    def test_a_papers_symbol_stands_in_the_description(self) -> None:
        assert "tau" in SCHEMA["$defs"]["reference.ema_twin"]["properties"]["decay"]["description"]

    def test_nested_options_of_a_plugin_are_closed_too(self) -> None:
        class Inner(Options):
            """A section of a plugin's own."""

            size: int = option(1, "how much", ge=1)

        class Outer(Options):
            """Options with a section."""

            inner: Inner = option(Inner(), "a section")

        component = Component("sampler", "nested", "a:B", Outer, "nested", "rlvr-nested", "1")
        installed = Catalogue({**{(c.kind, c.name): c for c in catalogue()}, ("sampler", "nested"): component})
        validator = Draft202012Validator(json_schema(installed))
        data = parse_yaml(BASE, "base").data
        for inner, right in (({"size": 2}, True), ({"size": 0}, False), ({"sise": 2}, False)):
            data["objective"] = {"name": "popo", "sampler": {"name": "nested", "inner": inner}}
            assert validator.is_valid(data) is right


def standing(part: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a place's schema asks of the component of this name."""
    (case,) = [case["then"] for case in part["allOf"] if case["if"]["properties"]["name"]["const"] == name]
    return dict(case)


def described_places(properties: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every key of core's own sections with its schema."""
    for key, schema in properties.items():
        yield f"{path}{key}", schema
        if "additionalProperties" in schema and schema["additionalProperties"] is False:
            yield from described_places(schema["properties"], f"{path}{key}.")


class TestSources:
    """Where a value was said is known."""

    def test_every_key_of_a_file_has_its_line(self) -> None:
        source = parse_yaml("a:\n  b: 1\n  c:\n    d: 2\n", "s.yaml")
        assert {".".join(path): where for path, where in source.origins.items()} == {
            "a": "s.yaml:1", "a.b": "s.yaml:2", "a.c": "s.yaml:3", "a.c.d": "s.yaml:4",
        }  # fmt: skip

    def test_a_path_nobody_wrote_is_placed_with_its_nearest_parent(self) -> None:
        source = parse_yaml("a:\n  b: 1\n", "s.yaml")
        assert (source.where(("a", "x", "y")), source.where(("z",))) == ("s.yaml:1", "s.yaml")

    def test_a_replaced_value_has_its_new_place_and_forgets_what_was_in_it(self) -> None:
        source = parse_yaml("a:\n  b:\n    c: 1\n", "s.yaml")
        source.set(("a", "b"), {"d": 2}, "--set")
        assert source.said(("a", "b", "d"))
        assert not source.said(("a", "b", "c"))

    def test_an_empty_source_takes_values(self) -> None:
        source = Source()
        source.set(("a", "b"), 1, "here")
        assert (source.data, source.where(("a",))) == ({"a": {"b": 1}}, "here")

    def test_the_sections_of_a_spec_have_defaults_that_pass_their_own_checks(self) -> None:
        assert Spec.model_validate(yaml.safe_load(BASE)).steps >= 1


def test_a_part_of_a_file_can_be_ablated_from_the_command_line(tmp_path: Path) -> None:
    """Its options and its reference were right in the file, so they are no mistakes once a coefficient of 0 takes the part out."""
    file = tmp_path / "run.yaml"
    similarity = "{to: twin, coef: 0.1, noise: 0.0}"
    file.write_text(
        "model: {name: m}\ntask: {name: arithmetic}\nobjective:\n  name: popo\n"
        f"  references: {{twin: {{name: ema_twin, decay: 0.9}}}}\n  regularisers: {{similarity: {similarity}}}\n"
    )
    source = read_spec(file)
    apply_assignments(source, ["objective.regularisers.similarity.coef=0"])
    resolved = resolve(source, catalogue())
    assert not resolved.objective.references
    apply_assignments(source, ["objective.regularisers.similarity.noise=0.1"])
    with pytest.raises(SpecError, match=r"noise: has no effect"):
        resolve(source, catalogue())


def test_naming_one_observer_does_not_silence_the_others() -> None:
    def observers(**parts: Any) -> list[str]:
        data = {"model": {"name": "m"}, "task": {"name": "arithmetic"}, "objective": {"name": "popo"}, "observers": parts}
        resolved = resolve(from_mapping(data), catalogue())
        again = resolve(from_mapping(resolved.as_dict()), catalogue())
        assert list(again.observers) == list(resolved.observers)
        return list(resolved.observers)

    assert observers() == ["progress", "jsonl"]
    assert observers(tracker={}) == ["progress", "jsonl", "tracker"]
    assert observers(progress=None) == ["jsonl"]
    with pytest.raises(SpecError, match="none to take away"):
        observers(progres=None)


def test_an_empty_mapping_of_parts_is_no_way_to_take_them_away() -> None:
    data = {"model": {"name": "m"}, "task": {"name": "arithmetic"}, "objective": {"name": "popo", "references": {}}}
    with pytest.raises(SpecError, match="takes nothing away"):
        resolve(from_mapping(data), catalogue())


def test_rewards_that_all_weigh_nothing_are_refused() -> None:
    data = {
        "model": {"name": "m"},
        "task": {"name": "arithmetic"},
        "objective": {"name": "popo"},
        "rewards": {"math": {"weight": 0}},
    }
    with pytest.raises(SpecError, match="every weight is 0"):
        resolve(from_mapping(data), catalogue())
