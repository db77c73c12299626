"""What a run will do and need is told before anything is loaded: memory, what fits, what terms are averaged over, ``rlvr plan``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_cli_offline import said
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, PreTrainedModel, Qwen2Config
from typer.testing import CliRunner

from rlvr_core.cli import app
from rlvr_core.errors import CapacityError, ModelError
from rlvr_core.objective import build_objective
from rlvr_core.planning import devices, passing
from rlvr_core.planning.averages import averages
from rlvr_core.planning.blueprint import blueprint
from rlvr_core.planning.devices import Device
from rlvr_core.planning.items import Item, size_of
from rlvr_core.planning.memory import check_fits, memory_of
from rlvr_core.planning.passing import LOGIT_COPIES, SAMPLING_COPIES, activation_bytes
from rlvr_core.plugins import catalogue
from rlvr_core.policy.loading import DTYPES
from rlvr_core.policy.scores import Linear, score_tokens
from rlvr_core.records import Request, RowKey, Sampling
from rlvr_core.spec.model import ModelSection
from rlvr_core.spec.resolve import resolve
from rlvr_core.spec.resolved import Resolved
from rlvr_core.spec.source import apply_assignments, parse_yaml
from rlvr_core.testing import tiny_policy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder that holds its config and no weights at all."""
    tiny_policy(dtype=torch.float32).config.save_pretrained(tmp_path / "model")
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["config.json"]
    return tmp_path / "model"


@pytest.fixture
def spec(folder: Path) -> Callable[..., Resolved]:
    """Makes a small resolved spec around that folder."""

    def make(*assignments: str, objective: str = "popo") -> Resolved:
        source = parse_yaml(
            f"model: {{name: {folder}}}\ntask: {{name: arithmetic}}\nobjective: {{name: {objective}}}\n", "spec.yaml"
        )
        apply_assignments(source, assignments)
        return resolve(source, catalogue())

    return make


def sizes(resolved: Resolved) -> dict[str, int]:
    """Bytes of every item of memory."""
    memory = memory_of(resolved, build_objective(resolved.objective), blueprint(resolved.spec.model))
    return {item.what: item.bytes for item in memory.items}


def bytes_of(model: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


class TestMemory:
    """What training keeps is counted exactly, what comes and goes is near."""

    def test_weights_are_those_of_the_model(self, spec: Callable[..., Resolved]) -> None:
        model = tiny_policy(dtype=torch.float32)
        buffers = sum(b.numel() * b.element_size() for b in model.buffers())
        assert sizes(spec())["weights"] == bytes_of(model) + buffers

    def test_every_trained_parameter_has_two_moments_and_a_gradient(self, spec: Callable[..., Resolved]) -> None:
        found = sizes(spec())
        model = bytes_of(tiny_policy(dtype=torch.float32))
        predictor = found["modules of similarity"]
        assert predictor == 4 * (16 * 1024 + 1024 + 2 * 1024 + 1024 * 16 + 16)
        assert found["gradients"] == model + predictor
        assert found["optimizer"] == 2 * found["gradients"]

    def test_tied_weights_count_once(self, tmp_path: Path) -> None:
        config = tiny_policy().config
        config.tie_word_embeddings = True
        config.save_pretrained(tmp_path)
        tied = blueprint(ModelSection(name=str(tmp_path)))
        untied = bytes_of(tiny_policy(dtype=torch.float32))
        assert size_of(tied.parameters()) == untied - 4 * config.vocab_size * config.hidden_size

    def test_a_bfloat16_policy_takes_half_and_its_twin_does_not(self, spec: Callable[..., Resolved]) -> None:
        wide, narrow = sizes(spec()), sizes(spec("model.dtype=bfloat16"))
        model = bytes_of(tiny_policy(dtype=torch.float32))
        assert wide["gradients"] - narrow["gradients"] == model / 2
        assert wide["reference twin"] == wide["weights"]
        assert narrow["reference twin"] == pytest.approx(wide["weights"], rel=1e-2)  # but for buffers, which keep their dtype

    def test_a_frozen_reference_has_the_policys_dtype(self, spec: Callable[..., Resolved]) -> None:
        found = sizes(spec("model.dtype=bfloat16", "objective.references.twin.name=frozen"))
        assert found["reference twin"] == found["weights"]

    def test_without_a_user_there_is_no_reference(self, spec: Callable[..., Resolved]) -> None:
        assert "reference twin" not in sizes(spec("objective.regularisers.similarity=null"))

    def test_ranks_exchange_gradients_through_buffers(
        self, spec: Callable[..., Resolved], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone = sizes(spec())["gradients"]
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert sizes(spec())["gradients"] == 2 * alone

    def test_the_key_value_cache_is_what_a_cache_of_these_rows_takes(self, spec: Callable[..., Resolved]) -> None:
        found = sizes(
            spec("rollout.engine.max_rows=3", "prompt.max_length=5", "prompt.too_long=drop", "rollout.max_completion_length=7")
        )
        model, cache = tiny_policy(dtype=torch.float32), DynamicCache()
        with torch.no_grad():
            model(input_ids=torch.zeros(3, 12, dtype=torch.long), past_key_values=cache, use_cache=True)
        real = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
        assert found["key-value cache"] == real

    def test_graphs_keep_their_cache_and_their_copies_of_matrices(
        self, spec: Callable[..., Resolved], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(devices, "device", lambda: Device("cuda", "a GPU", 2**40))
        numerics = "learner.mixed_precision=bf16"

        def items(*assignments: str) -> dict[str, Item]:
            resolved = spec(numerics, *assignments)
            policy = blueprint(resolved.spec.model)
            return {item.what: item for item in memory_of(resolved, build_objective(resolved.objective), policy).items}

        on, off = items(), items("rollout.engine.graphs=false")
        assert (on["key-value cache"].when, off["key-value cache"].when) == ("always", "rolling out")
        assert on["key-value cache"].bytes * 3 == off["key-value cache"].bytes * 2  # both of two bytes; else keys are of four
        assert on["matrices cast for graphs"].bytes == on["matrices cast"].bytes
        assert "matrices cast for graphs" not in off
        narrow = items("model.dtype=bfloat16")
        assert "matrices cast for graphs" not in narrow

    def test_a_step_of_few_rows_decodes_no_more_than_those(self, spec: Callable[..., Resolved]) -> None:
        few = ("rollout.prompts_per_step=2", "rollout.group_size=3", "evaluation.problems=4", "evaluation.samples=1")
        assert sizes(spec(*few)) == sizes(spec(*few, "rollout.engine.max_rows=6"))
        assert sizes(spec(*few))["sampling"] < sizes(spec(*few[:2]))["sampling"]

    def test_gradient_checkpointing_keeps_less(self, spec: Callable[..., Resolved]) -> None:
        kept = sizes(spec("model.gradient_checkpointing=true"))["activations"]
        assert kept < sizes(spec())["activations"]

    @pytest.mark.parametrize(("dtype", "autocast"), [("float32", None), ("bfloat16", None), ("float32", torch.bfloat16)])
    @pytest.mark.parametrize("config", [Qwen2Config, LlamaConfig])
    def test_activations_are_near_what_autograd_saves(self, config: type, dtype: str, autocast: torch.dtype | None) -> None:
        shape = config(
            hidden_size=64,
            intermediate_size=224,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=50,
        )
        model = AutoModelForCausalLM.from_config(shape).to(DTYPES[dtype])
        saved = saved_by_autograd(model, rows=2, length=64, autocast=autocast)
        expected = activation_bytes(model, autocast, checkpointing=False) * 2 * 64
        assert expected == pytest.approx(saved, rel=0.1)

    @pytest.mark.parametrize(("tokens", "entropy", "copies"), [(32, False, 1), (128, False, 1), (32, True, 2), (128, True, 2)])
    def test_logits_are_as_many_copies_of_a_chunk_as_are_alive_together(self, tokens: int, entropy: bool, copies: int) -> None:
        weight, hidden = torch.randn(1000, 4, requires_grad=True), torch.randn(tokens, 4, requires_grad=True)
        with Alive(32 * 1000 * 4) as alive:
            scores = score_tokens(hidden, torch.arange(tokens), Linear(weight), 0.9, 32, entropy)
            (scores.logprobs.sum() + scores.entropy.sum()).backward()
        assert alive.most == copies <= LOGIT_COPIES == 2

    @pytest.mark.parametrize(("entropy", "copies"), [(False, 1.5), (True, 2.5)])
    def test_a_narrow_product_is_gone_once_there_is_a_float32_copy(self, entropy: bool, copies: float) -> None:
        """It is alive while it is copied, and its gradient while that is: half a float32 tensor beside those."""
        narrow = {"dtype": torch.bfloat16, "requires_grad": True}
        weight, hidden = torch.randn(1000, 4, **narrow), torch.randn(128, 4, **narrow)
        with Alive(32 * 1000 * 2) as alive:
            scores = score_tokens(hidden, torch.arange(128), Linear(weight), 0.9, 32, entropy)
            (scores.logprobs.sum() + scores.entropy.sum()).backward()
        assert alive.most / 2 == copies

    @pytest.mark.parametrize(("dtype", "bytes_each"), [("bfloat16", 2), ("float32", 4)])
    def test_kernels_need_the_product_alone(
        self, spec: Callable[..., Resolved], monkeypatch: pytest.MonkeyPatch, dtype: str, bytes_each: int
    ) -> None:
        resolved = spec(f"model.dtype={dtype}", "learner.mixed_precision=no", "learner.logprob_chunk_tokens=3")
        plain = sizes(resolved)["logits"]
        assert plain == 3 * 4 * LOGIT_COPIES * tiny_policy().config.vocab_size
        monkeypatch.setattr(passing, "has_kernels", lambda kind, asked: asked == DTYPES[dtype])
        assert sizes(resolved)["logits"] == plain * bytes_each / (4 * LOGIT_COPIES)

    def test_an_accelerator_takes_larger_chunks(self, spec: Callable[..., Resolved], monkeypatch: pytest.MonkeyPatch) -> None:
        resolved = spec("learner.mixed_precision=no", "rollout.max_completion_length=5000")
        here = sizes(resolved)["logits"]
        monkeypatch.setattr(passing, "has_kernels", lambda kind, asked: False)
        monkeypatch.setattr(devices, "device", lambda: Device("cuda", "a GPU", 2**40))
        assert sizes(resolved)["logits"] == 4 * here

    def test_sampling_is_as_many_copies_as_are_alive_together(self) -> None:
        policy = tiny_policy(dtype=torch.float32, vocab_size=3000)
        engine = catalogue().get("rollout", "transformers")
        decoder = engine.build(engine.options())
        decoder.start(SimpleNamespace(model=policy, decode=policy, held=nullcontext, exact=True, version=0))
        requests = [Request(RowKey(1, row, 0), (row + 2,)) for row in range(32)]
        with torch.no_grad(), Alive(32 * 3000 * 4) as alive:
            decoder.generate(requests, Sampling(0.9, 1, (1,), (), 0))
        assert alive.most == SAMPLING_COPIES


class Alive(TorchDispatchMode):
    """Counts how many tensors of at least some size are alive together, in units of that size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.most = size, 0.0
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor) or tensor.is_mkldnn:  # a packed weight, which has no storage to look at
                continue
            if tensor.untyped_storage().nbytes() >= self.size:
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        alive = sum(size for reference, size in self.storages.values() if not reference.expired())
        self.most = max(self.most, alive / self.size)
        return out


def saved_by_autograd(model: PreTrainedModel, rows: int, length: int, autocast: torch.dtype | None) -> int:
    """Bytes of distinct tensors that the decoder's forward keeps for backward, weights and their casts aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shapes = {tuple(p.shape) for p in model.parameters()} | {tuple(p.t().shape) for p in model.parameters() if p.dim() == 2}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights and tuple(tensor.shape) not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.arange(rows * length).reshape(rows, length) % 50
    with saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", autocast, enabled=autocast is not None):
        model.get_decoder()(input_ids=ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class TestFits:
    """What cannot fit is refused in one line, before anything is loaded; what can is let through."""

    def having(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        """A device of this size."""
        monkeypatch.setattr(devices, "device", lambda: Device("cpu", "a small device", size))

    def unavoidable(self, resolved: Resolved) -> int:
        found = sizes(resolved)
        return sum(
            size
            for what, size in found.items()
            if what.split()[0] in ("weights", "modules", "optimizer", "reference", "gradients")
        )

    def test_a_run_that_just_fits_is_let_through(self, spec: Callable[..., Resolved], monkeypatch: pytest.MonkeyPatch) -> None:
        self.having(monkeypatch, self.unavoidable(spec()))
        check_fits(spec())

    def test_a_byte_less_is_refused_with_needs_device_and_ways_out(
        self, spec: Callable[..., Resolved], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.having(monkeypatch, self.unavoidable(spec()) - 1)
        with pytest.raises(CapacityError) as caught:
            check_fits(spec())
        message = str(caught.value)
        assert "\n" not in message
        for words in (
            "weights",
            "optimizer",
            "gradients",
            "reference twin",
            "a small device",
            "model.name",
            "model.dtype: bfloat16",
            "twin",
        ):
            assert words in message

    def test_ways_out_that_are_none_are_not_offered(self, spec: Callable[..., Resolved], monkeypatch: pytest.MonkeyPatch) -> None:
        self.having(monkeypatch, 1)
        with pytest.raises(CapacityError) as caught:
            check_fits(spec("model.dtype=bfloat16", objective="grpo"))
        assert "bfloat16" not in str(caught.value)
        assert "references" not in str(caught.value)

    @pytest.mark.parametrize("config", [None, "{", '{"model_type": "no such type"}'])
    def test_a_config_that_cannot_be_read_is_left_to_the_loader(
        self, spec: Callable[..., Resolved], folder: Path, config: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.having(monkeypatch, 1)
        if config is None:
            (folder / "config.json").unlink()
        else:
            (folder / "config.json").write_text(config, encoding="utf-8")
        check_fits(spec())

    def test_a_part_that_needs_real_tensors_to_build_is_not_counted(
        self, spec: Callable[..., Resolved], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def build(self: object, *_: object) -> None:
            raise RuntimeError("needs numbers")

        monkeypatch.setattr("rlvr_popo.parts.Similarity.build", build)
        monkeypatch.setattr("rlvr_core.learner.references.EmaTwin.build", build)
        found = sizes(spec())
        assert "modules of similarity" not in found
        assert found["reference twin"] == 0

    def test_ranks_on_one_machine_share_its_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if torch.cuda.is_available():
            pytest.skip("each rank has a GPU of its own")
        alone = devices.device().bytes
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert devices.device().bytes == alone // 4

    def test_the_embedded_model_is_counted_without_being_made(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        policy = blueprint(ModelSection(name="embedded"))
        assert {p.device.type for p in policy.parameters()} == {"meta"}
        assert list(tmp_path.iterdir()) == []


class TestAverages:
    """What each term is averaged over is asked of the parts themselves."""

    @pytest.mark.parametrize("name", catalogue().names("objective"))
    def test_every_installed_objective_answers(self, spec: Callable[..., Resolved], name: str) -> None:
        found = averages(build_objective(spec(objective=name).objective))
        assert found
        assert [term.failure for term in found if term.failure] == []

    def test_popos_terms_are_averaged_as_its_authors_do(self, spec: Callable[..., Resolved]) -> None:
        found = averages(build_objective(spec().objective))
        assert [(term.part, term.name, term.over, term.coef) for term in found] == [
            ("loss", "nll", "tokens", 1.0), ("similarity", "similarity", "weight", 0.1), ("entropy", "entropy", "tokens", 0.01),
        ]  # fmt: skip

    def test_an_option_that_changes_it_is_heeded(self, spec: Callable[..., Resolved]) -> None:
        found = averages(
            build_objective(spec("objective.loss.over=prompts", "objective.regularisers.entropy.scope=all").objective)
        )
        assert [(term.over, term.scope) for term in found if term.part in ("loss", "entropy")] == [
            ("prompts", "chosen"),
            ("tokens", "all"),
        ]

    def test_a_part_that_fails_on_made_up_rollouts_is_reported_and_the_others_answer(
        self, spec: Callable[..., Resolved], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def terms(self: object, batch: object) -> None:
            raise KeyError("special")

        monkeypatch.setattr("rlvr_core.components.parts.Entropy.terms", terms)
        found = averages(build_objective(spec().objective))
        assert [term.failure for term in found] == ["", "", "KeyError: 'special'"]


class TestPlan:
    """``rlvr plan`` says what a run would do, and does nothing."""

    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")

    def plan(self, folder: Path, *assignments: str) -> str:
        settings = (part for text in assignments for part in ("--set", text))
        objective = () if any("objective.name=" in text for text in assignments) else ("--objective", "popo")
        return said("plan", "--model", str(folder), "--task", "arithmetic", *objective, *settings)

    def test_it_writes_nothing(self, folder: Path) -> None:
        self.plan(folder, "output=runs/a")
        assert list(Path.cwd().iterdir()) == []
        assert [file.name for file in folder.iterdir()] == ["config.json"]

    def test_it_begins_with_the_resolved_spec(self, folder: Path) -> None:
        text = self.plan(folder, "steps=7").partition("\nrollouts\n")[0]
        found = resolve(parse_yaml(text, "plan"), catalogue())
        assert found.spec.steps == 7
        assert found.as_dict() == parse_yaml(text, "plan").data

    def test_it_counts_the_rollouts(self, folder: Path) -> None:
        text = self.plan(folder, "steps=7", "rollout.prompts_per_step=5", "rollout.group_size=3")
        assert "5 prompts x 3 completions x 7 steps = 105 rollouts (15 a step)" in text

    @pytest.mark.parametrize(
        "row",
        [
            "learn regularisers.similarity similarity policy hidden, policy logprobs, twin hidden, twin logprobs",
            "learn regularisers.entropy entropy policy entropy",
            "learn loss bounded_is policy logprobs",
            "follow references.twin ema_twin follows every optimizer step hidden, logprobs in learn",
            "loss nll 1 tokens of chosen rollouts",
            "similarity similarity 0.1 credit weights of chosen rollouts",
        ],
    )
    def test_it_says_what_needs_what_and_what_is_averaged_over_what(self, folder: Path, row: str) -> None:
        assert row in [" ".join(line.split()) for line in self.plan(folder).splitlines()]

    def test_it_says_which_reference_is_computed_when(self, folder: Path) -> None:
        text = self.plan(
            folder,
            "objective.name=grpo",
            "objective.references.still.name=frozen",
            "objective.regularisers.kl={coef: 0.1, to: still}",
        )
        rows = [" ".join(line.split()) for line in text.splitlines()]
        assert "follow references.still frozen stays as it is logprobs in prepare" in rows

    def test_it_says_who_provides_what_credit_needs(self, folder: Path) -> None:
        rows = [" ".join(line.split()) for line in self.plan(folder, "objective.name=ppo").splitlines()]
        assert "learn regularisers.value value policy states, policy values values" in rows
        assert "prepare forwards the policy for values" in rows

    def test_it_says_that_dropped_rows_are_forwarded_where_a_part_asks_for_them(self, folder: Path) -> None:
        assert "learn forwards the rollouts that the sampler keeps" in self.plan(folder)
        assert "learn forwards every rollout drawn" in self.plan(folder, "objective.regularisers.entropy.scope=all")

    @pytest.mark.parametrize("option", ["model.dtype=bfloat16", "learner.mixed_precision=bf16"])
    def test_it_says_when_sampled_logprobs_are_computed_again(self, folder: Path, option: str) -> None:
        assert "need" in next(
            line for line in self.plan(folder, "learner.mixed_precision=no").splitlines() if line.startswith("logprobs as")
        )
        assert "prepare forwards the policy for logprobs" in self.plan(folder, option)

    def test_it_says_what_is_evaluated_and_saved_when_and_where(self, folder: Path) -> None:
        text = self.plan(
            folder, "output=runs/a", "evaluation={every: 5, problems: 9, samples: 2}", "checkpoint={every: 4, keep: 3}"
        )
        assert (
            "9 held-out problems at most x 2 completions at temperature 1: before step 1, every 5 steps and at the end -> runs/a/eval"
            in text
        )
        assert "checkpoint every 4 steps, the newest 3 kept, -> runs/a/checkpoints" in text
        assert "nothing is evaluated" in self.plan(folder, "evaluation.problems=0")

    def test_it_says_that_the_output_folder_is_in_the_way(self, folder: Path) -> None:
        Path("taken").mkdir()
        Path("taken/file").touch()
        assert "as things stand, refused: output taken exists" in self.plan(folder, "output=taken")

    def test_it_counts_the_ranks_of_its_launch(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "1 process on " in self.plan(folder)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert "2 processes, each on " in self.plan(folder)
        monkeypatch.setenv("RANK", "1")
        assert self.plan(folder) == ""

    def test_it_says_which_option_to_lower_where_a_stage_is_likely_too_much(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(devices, "device", lambda: Device("cpu", "a small device", 2**20))
        text = self.plan(folder)
        assert "lower learner.max_tokens_per_microbatch" in text
        assert "lower rollout.engine.max_rows" in text

    def test_it_refuses_what_cannot_fit_after_saying_why(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "device", lambda: Device("cpu", "a small device", 10))
        result = CliRunner().invoke(app, ["plan", "--model", str(folder), "--task", "arithmetic", "--objective", "popo"])
        assert isinstance(result.exception, CapacityError)
        assert "memory of each rank" in result.output

    def test_a_model_that_is_not_there_is_an_error_after_the_rest(self, tmp_path: Path) -> None:
        arguments = ["plan", "--model", str(tmp_path / "nowhere"), "--task", "arithmetic", "--objective", "popo"]
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, ModelError)
        assert "no such folder" in str(result.exception)
        assert "what needs what" in result.output

    def test_without_a_spec_it_plans_the_embedded_default(self) -> None:
        text = said("plan")
        assert "name: embedded" in text
        assert "memory of each rank" in text
