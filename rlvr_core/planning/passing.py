"""What comes and goes with a batch, an estimate: activations, logits, the key-value cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from rlvr_core.planning.devices import Device, ranks
from rlvr_core.planning.items import Item, name_of
from rlvr_core.policy.scores import has_kernels
from rlvr_core.rollout.packed import works
from rlvr_core.setup import autocast_dtype
from rlvr_core.spec.resolved import Resolved

ASSUMED_PROMPT = 512
"""Tokens of a prompt, where ``prompt.max_length`` does not say."""
LOGIT_COPIES = 2
"""float32 tensors of chunk x vocabulary alive together in ``score_tokens``, at most. Kernels have the matrix product, in its dtype."""
SAMPLING_COPIES = 1
"""float32 tensors of rows x vocabulary alive together when a token is drawn: logits, which are overwritten on the way to it."""


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


def passing(resolved: Resolved, policy: PreTrainedModel, there: Device) -> Iterator[Item]:
    """What comes and goes with a batch."""
    autocast, shape = autocast_on(resolved, there), _Shape.of(policy)
    if autocast is not None and policy.dtype != autocast:
        how = f"the autocast's copies in {name_of(autocast)}"
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
        size, copies = dtype.itemsize, f"{dtype.itemsize} bytes ({name_of(dtype)})"
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
        how = f"copies in {name_of(inner)} that graphs read"
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
