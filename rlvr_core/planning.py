"""What a run needs, worked out before anything is loaded.

The model is built from its config on torch's meta device, where tensors have shapes and no numbers; references and components' own
modules are built from that one. So what training keeps is counted exactly. What comes and goes with a batch (activations, logits, the
key-value cache) is arithmetic for a decoder of attention and a gated MLP: an estimate.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
from accelerate.utils import parse_flag_from_env
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from rlvr_core.contracts import Differentiable, Reference
from rlvr_core.errors import CapacityError, ModelError
from rlvr_core.objective import Objective, build_objective
from rlvr_core.policy.forward import Rows, collate, completion_quantities
from rlvr_core.policy.loading import DTYPES
from rlvr_core.policy.root import Numerics, Root
from rlvr_core.policy.scores import has_kernels
from rlvr_core.records import MicroBatch, Scope
from rlvr_core.rollout.packed import works
from rlvr_core.setup import EMBEDDED, autocast_dtype, build_modules
from rlvr_core.spec.model import ModelSection
from rlvr_core.spec.resolve import Resolved
from rlvr_core.tasks.hub import hub_in_reach, looks_local
from rlvr_core.testing.fakes import scripted_rollouts, tiny_policy

When = Literal["always", "learning", "rolling out"]

GIB = 2**30
ASSUMED_PROMPT = 512
"""Tokens of a prompt, where ``prompt.max_length`` does not say."""
LOGIT_COPIES = 2
"""float32 tensors of chunk x vocabulary alive together in ``score_tokens``, at most. Kernels have the matrix product, in its dtype."""
SAMPLING_COPIES = 1
"""float32 tensors of rows x vocabulary alive together when a token is drawn: logits, which are overwritten on the way to it."""


@dataclass(frozen=True)
class Item:
    """Something that takes memory on each rank. ``kept``: no option of the batch makes it smaller."""

    what: str
    bytes: int
    when: When
    how: str
    kept: bool = False


@dataclass(frozen=True)
class Device:
    """What one rank may fill."""

    kind: str
    name: str
    bytes: int


@dataclass(frozen=True)
class Memory:
    """What a run takes on each rank, and what there is."""

    items: tuple[Item, ...]
    device: Device

    def during(self, stage: When) -> int:
        """Bytes alive while learning or rolling out."""
        return sum(item.bytes for item in self.items if item.when in ("always", stage))

    @property
    def peak(self) -> int:
        """The larger of the two; they follow each other."""
        return max(self.during("learning"), self.during("rolling out"))

    @property
    def unavoidable(self) -> int:
        """Bytes that every update needs, however small its micro-batches."""
        return sum(item.bytes for item in self.items if item.kept)


def check_fits(resolved: Resolved) -> None:
    """Raise CapacityError where not even an empty micro-batch fits. Reads the model's config alone.

    A config that cannot be read is left to the loader, which says why.
    """
    try:
        policy = blueprint(resolved.spec.model)
    except ModelError:
        return
    refuse_too_big(resolved, memory_of(resolved, build_objective(resolved.objective), policy))


def refuse_too_big(resolved: Resolved, memory: Memory) -> None:
    """Raise CapacityError where what training keeps exceeds the device."""
    if memory.unavoidable <= memory.device.bytes:
        return
    kept = ", ".join(f"{item.what} {gib(item.bytes)}" for item in memory.items if item.kept)
    ways = ["name a smaller model (model.name)"]
    if resolved.spec.model.dtype == "float32":
        ways.append("set model.dtype: bfloat16")
    if resolved.objective.references:
        ways.append(f"do without the references ({', '.join(resolved.objective.references)})")
    raise CapacityError(
        f"the run cannot fit: each rank needs {gib(memory.unavoidable)} whatever the batch ({kept}), and {memory.device.name} has "
        f"{gib(memory.device.bytes)}; {', or '.join(ways)}"
    )


def gib(size: float) -> str:
    """Bytes in a reader's unit."""
    for unit, scale in (("GiB", GIB), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"


def blueprint(options: ModelSection) -> PreTrainedModel:
    """The policy on the meta device: every shape, no numbers. Raises ModelError where its config cannot be read."""
    try:
        with torch.device("meta"):
            model = _embedded() if options.name == EMBEDDED else _from_config(options)
    except Exception as error:  # configs and model code of others fail in every way; all of it means: not known before loading
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{options.name}: its config cannot be read ({type(error).__name__}: {said}); check model.name"
        ) from error
    return cast(PreTrainedModel, cast(Any, model).to(DTYPES[options.dtype]))


def _embedded() -> PreTrainedModel:
    from rlvr_core.embedded.tokenizer import embedded_tokenizer
    from rlvr_core.embedded.warm_start import Recipe, fresh_model

    return fresh_model(Recipe(), embedded_tokenizer())


def _from_config(options: ModelSection) -> PreTrainedModel:
    config = _config(options)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=options.trust_remote_code)
    return model


def _config(options: ModelSection) -> PreTrainedConfig:
    """From a folder, the cache, or the hub where it is in reach."""
    folder = Path(options.name).expanduser()
    name = str(folder) if folder.is_dir() else options.name
    if looks_local(name) and not folder.is_dir():
        raise FileNotFoundError("no such folder")

    def read(offline: bool) -> PreTrainedConfig:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            name, trust_remote_code=options.trust_remote_code, local_files_only=offline
        )
        return config

    try:
        return read(offline=True)
    except OSError:
        if folder.is_dir() or not hub_in_reach():
            raise
        return read(offline=False)


def ranks() -> int:
    """Processes of this launch, as torchrun and accelerate say it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device() -> Device:
    """What this rank will train on: its GPU, or its share of the machine's memory."""
    if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        found = torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", "0")))
        return Device("cuda", found.name, int(found.total_memory))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Device("cpu", "this machine" if here == 1 else f"this machine, shared by {here} ranks,", _machine_bytes() // here)


def _machine_bytes() -> int:
    """Physical memory, or what a container is given of it."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_number(Path("/sys/fs/cgroup/memory.max")), _number(Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))]
    return min(physical, *(limit for limit in limits if limit is not None), physical)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such control group, or "max"
        return None


def memory_of(resolved: Resolved, objective: Objective, policy: PreTrainedModel) -> Memory:
    """Every item, for a policy on the meta device."""
    there = device()
    return Memory((*_kept(resolved, objective, policy), *_passing(resolved, policy, there)), there)


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors, each counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _kept(resolved: Resolved, objective: Objective, policy: PreTrainedModel) -> Iterator[Item]:
    """Weights, moments, gradients, references."""
    trained = list(policy.parameters())
    number = sum(p.numel() for p in {id(p): p for p in trained}.values())
    yield Item("weights", size_of(_tensors(policy)), "always", f"{_count(number)} parameters in {_name(policy.dtype)}", kept=True)
    for label, part in objective.differentiables.items():
        module = _module(label, part, policy, resolved.spec.seed)
        if module is not None:
            yield Item(f"modules of {label}", size_of(_tensors(module)), "always", "trained beside the policy", kept=True)
            trained += module.parameters()
    yield Item("optimizer", 2 * size_of(trained), "always", "AdamW: two moments of every trained parameter", kept=True)
    for label, reference in objective.references.items():
        yield _reference(label, reference, policy)
    copies, buffers = (1, "") if ranks() == 1 else (2, ", and buffers to exchange them")
    yield Item("gradients", copies * size_of(trained), "learning", f"of every trained parameter{buffers}", kept=True)


def _module(label: str, part: Differentiable, policy: PreTrainedModel, seed: int) -> nn.Module | None:
    """A part's own module, without numbers; None where it has none, or will not be built so."""
    try:
        with torch.device("meta"):
            return build_modules({label: part}, policy, seed).get(label)
    except Exception:  # foreign code may need real tensors; the run itself will have them
        return None


def _reference(label: str, reference: Reference, policy: PreTrainedModel) -> Item:
    """What a reference does not share with the policy."""
    what = f"reference {label}"
    try:
        model = reference.build(policy)
    except Exception as error:  # the same
        return Item(what, 0, "always", f"not counted: it cannot be built without numbers ({type(error).__name__})")
    shared = {id(tensor) for tensor in _tensors(policy)}
    own = size_of(tensor for tensor in _tensors(model) if id(tensor) not in shared)
    return Item(what, own, "always", f"a model in {_name(model.dtype)}", kept=True)


@dataclass(frozen=True)
class _Shape:
    """Sizes of a decoder, from its config."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    vocabulary: int

    @classmethod
    def of(cls, policy: PreTrainedModel) -> _Shape:
        config: Any = policy.config.get_text_config(decoder=True)

        def read(*names: str, default: int) -> int:
            return next((int(value) for name in names if (value := getattr(config, name, None))), default)

        heads = read("num_attention_heads", default=1)
        experts = read("num_experts_per_tok", default=1)
        mlp = read("moe_intermediate_size", default=0) * experts or read("intermediate_size", default=4 * config.hidden_size)
        return cls(
            config.hidden_size, config.num_hidden_layers, heads, read("num_key_value_heads", default=heads),
            read("head_dim", default=config.hidden_size // heads), mlp, config.vocab_size,
        )  # fmt: skip


def activation_bytes(policy: PreTrainedModel, autocast: torch.dtype | None, checkpointing: bool) -> int:
    """What autograd keeps of one token's way through the decoder.

    A layer keeps: each norm's input (float32) and result; the inputs of its matrices (cast once a matrix under autocast); queries,
    keys, values and attention's output; four tensors of the MLP's width. Checkpointed layers keep their input, and one all of that.
    """
    shape, weight = _Shape.of(policy), policy.dtype.itemsize
    inner = weight if autocast is None else autocast.itemsize
    inputs = 2 * weight if autocast is None else 5 * inner
    wide = 2 * (shape.heads + shape.kv_heads) * shape.head + 4 * shape.mlp
    layer = (2 * (4 + weight) + inputs) * shape.hidden + wide * inner
    return shape.layers * shape.hidden * weight + layer if checkpointing else shape.layers * layer


def autocast_on(resolved: Resolved, there: Device) -> torch.dtype | None:
    """The autocast of forwards on a device, as the learner will choose it."""
    return autocast_dtype(resolved.spec.learner, cast(Any, SimpleNamespace(device=torch.device(there.kind))))


def _passing(resolved: Resolved, policy: PreTrainedModel, there: Device) -> Iterator[Item]:
    """What comes and goes with a batch."""
    autocast, shape = autocast_on(resolved, there), _Shape.of(policy)
    if autocast is not None and policy.dtype != autocast:
        how = f"the autocast's copies in {_name(autocast)}"
        yield Item("matrices cast", _matrices(policy) * autocast.itemsize, "always", how)
    yield from _learning(resolved, policy, autocast, shape, there)
    yield from _rolling_out(resolved, policy, autocast, shape, there)


def _matrices(policy: PreTrainedModel) -> int:
    return sum(m.weight.numel() for m in policy.modules() if isinstance(m, nn.Linear))


def row_tokens(resolved: Resolved) -> tuple[int, str]:
    """Tokens of the longest row, and how they come about."""
    prompt, completion = resolved.spec.prompt.max_length, resolved.spec.rollout.max_completion_length
    said = f"{ASSUMED_PROMPT} assumed" if prompt is None else str(prompt)
    return (prompt or ASSUMED_PROMPT) + completion, f"prompt {said} + completion {completion}"


def _learning(
    resolved: Resolved, policy: PreTrainedModel, autocast: torch.dtype | None, shape: _Shape, there: Device
) -> Iterator[Item]:
    """One micro-batch's activations and logits."""
    spec = resolved.spec
    row, said = row_tokens(resolved)
    rows = ceil(spec.rollout.prompts_per_step * spec.rollout.group_size / ranks() / spec.learner.num_minibatches)
    tokens = max(row, min(spec.learner.microbatch_tokens(there.kind), rows * row))
    per_token = activation_bytes(policy, autocast, spec.model.gradient_checkpointing)
    checkpointed = ", checkpointed" if spec.model.gradient_checkpointing else ""
    how = f"{tokens} tokens of a micro-batch (a row: {said}) x {per_token} bytes{checkpointed}; an estimate"
    yield Item("activations", tokens * per_token, "learning", how)
    chunk, dtype = min(spec.learner.chunk_tokens(there.kind), tokens), autocast or policy.dtype
    size, copies = 4 * LOGIT_COPIES, f"{LOGIT_COPIES} float32 copies in backward"
    if has_kernels(there.kind, dtype):
        size, copies = dtype.itemsize, f"{dtype.itemsize} bytes ({_name(dtype)})"
    how = f"{chunk} tokens x vocabulary of {shape.vocabulary} x {copies}"
    yield Item("logits", chunk * shape.vocabulary * size, "learning", how)


def _rolling_out(
    resolved: Resolved, policy: PreTrainedModel, autocast: torch.dtype | None, shape: _Shape, there: Device
) -> Iterator[Item]:
    """Key-value cache and sampling, for engines that decode a number of rows together in this process."""
    limit = getattr(resolved.engine.options, "max_rows", None)
    if limit is None:
        return
    graphs = there.kind == "cuda" and getattr(resolved.engine.options, "graphs", False) is not False  # these keep what they read
    rows = min(limit, _rows_drawn(resolved))
    row, said = row_tokens(resolved)
    inner = policy.dtype if autocast is None else autocast
    per_element = (inner if graphs else policy.dtype).itemsize + inner.itemsize
    per_token = shape.layers * shape.kv_heads * shape.head * per_element
    allowed = max(row, getattr(resolved.engine.options, "max_cache_tokens", rows * row))
    size = min(rows * row, allowed) * per_token
    how = f"{rows} rows x ({said})" if rows * row <= allowed else f"{allowed} tokens (rollout.engine.max_cache_tokens)"
    how += f" x {per_token} bytes"
    yield Item("key-value cache", size, "always" if graphs else "rolling out", how)
    if there.kind == "cpu" and inner == torch.float32 and works():
        yield Item(
            "matrices packed", _matrices(policy) * 4, "rolling out", "copies in the layout that products with few rows read best"
        )
    if graphs and inner != policy.dtype:
        how = f"copies in {_name(inner)} that graphs read"
        yield Item("matrices cast for graphs", _matrices(policy) * inner.itemsize, "always", how)
    narrow = min(policy.dtype.itemsize, 4 if autocast is None else autocast.itemsize)
    per_logit = 4 * SAMPLING_COPIES + (narrow if narrow < 4 else 0)
    how = f"{rows} rows x vocabulary of {shape.vocabulary} x {per_logit} bytes: logits{' and their float32 copy' if narrow < 4 else ''}"
    yield Item("sampling", rows * shape.vocabulary * per_logit, "rolling out", how)


def _rows_drawn(resolved: Resolved) -> float:
    """Rows that one rank may have to decode together: a step's, or an evaluation's."""
    rollout, evaluation = resolved.spec.rollout, resolved.spec.evaluation
    step = ceil(rollout.prompts_per_step / ranks()) * rollout.group_size
    if evaluation.problems is None:
        return float("inf")
    return max(step, ceil(evaluation.problems / ranks()) * evaluation.samples)


def _count(number: int) -> str:
    """Parameters in a reader's unit."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.2f} M"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Averaged:
    """One term of the loss: whose it is, and what it is averaged over. ``failure``: why a part's terms are not known."""

    part: str
    name: str = ""
    over: str | float = ""
    scope: Scope = "chosen"
    coef: float = 1.0
    failure: str = ""


def averages(objective: Objective) -> list[Averaged]:
    """Every term, found out by asking the parts themselves for the terms of two made-up rollouts under a policy of two small layers."""
    policy, parts = tiny_policy(dtype=torch.float32), objective.differentiables
    root = Root(policy, parts, build_modules(parts, policy, 0), Numerics(1.0, 1024, None))
    rows = collate(scripted_rollouts([[1.0, 0.0]], [[3, 2]]), policy.device)
    micro = _made_up(rows, [name for part in parts.values() for name in part.provides])
    for label, quantities in objective.reference_quantities(objective.learn_needs()).items():
        micro.references[label] = completion_quantities(policy, root.head, rows, quantities, 1.0, 1024)
    return [found for label, part in parts.items() for found in _asked(label, part, root, rows, micro)]


def _made_up(rows: Rows, provided: Sequence[str]) -> MicroBatch:
    """A micro-batch in which every token counts alike."""
    mask = torch.arange(rows.width) < rows.completion_lengths[:, None]
    ones, zeros = torch.ones(mask.shape), torch.zeros(mask.shape)
    return MicroBatch(
        chosen=mask.any(-1), mask=mask, advantage=ones, weight=ones, row_weight=ones[:, 0], old_logprobs=zeros, sampling_logprobs=zeros,
        importance=ones, temperature=1.0, fixed={"returns": zeros, **{f"old_{name}": zeros for name in provided}},
        normal=lambda _, size, std: torch.full((len(mask), size), std),
    )  # fmt: skip


def _asked(label: str, part: Differentiable, root: Root, rows: Rows, micro: MicroBatch) -> list[Averaged]:
    try:
        root("prepare", rows, micro, part.needs().policy)
        return [Averaged(label, name, term.over, term.scope, term.coef) for name, term in part.terms(micro).items()]
    except Exception as error:  # foreign code may want more than made-up rollouts have
        return [Averaged(label, failure=f"{type(error).__name__}: {' '.join(str(error).split())}")]
