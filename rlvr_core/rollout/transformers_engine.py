"""The in-process engine: decodes with the policy's own weights, without ``generate``.

As many rows share a batch as the key-value cache may hold tokens; rows of one prompt share its prefill, ended rows leave the cache, waiting
ones enter. On CUDA, keys and values are kept in pages and each step is replayed as one graph, where the model allows it. Each row is
sampled from a counter-based stream of its own, so its text does not depend on which rows share its batch (but through rounding at a
near-tie). A model whose cache is not of keys and values alone is decoded with ``generate``, and a note says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import nn
from transformers import PreTrainedModel

from rlvr_core.components.options import TransformersEngineOptions
from rlvr_core.contracts import PolicyHandle, RolloutEngine
from rlvr_core.errors import ModelError
from rlvr_core.records import Completion, Request, Sampling
from rlvr_core.rollout.cache import windows_of
from rlvr_core.rollout.decoding import Decoding, Forward, Limits
from rlvr_core.rollout.fallback import generate_rows
from rlvr_core.rollout.packed import packed_weights
from rlvr_core.rollout.paged.decoding import PagedDecoding
from rlvr_core.rollout.paged.pages import PAGE
from rlvr_core.rollout.rows import Row, rows_of
from rlvr_core.rollout.trial import trial

POSITION_TABLES = frozenset({"wpe", "embed_positions", "position_embeddings", "position_embedding", "pos_emb"})
"""Names that transformers' models give their tables of learned positions."""


class TransformersEngine(RolloutEngine):
    """Decodes in this process."""

    policy: PolicyHandle

    def start(self, policy: PolicyHandle) -> None:
        self.policy = policy
        self.inexact = False
        self.positions = learned_positions(policy.model)
        self.steady = steady_length(policy.model)
        self.windows = usable_windows(policy)
        self.paged: PagedDecoding | str = "it has no use for it"
        if not isinstance(self.windows, str):
            self.paged = paged_decoding(policy, self.windows, self._limits(), self.options)

    def notes(self) -> Sequence[str]:
        notes = []
        if isinstance(self.windows, str):
            notes.append(f"rollout: decoding with generate, as rows cannot leave or enter this model's cache: {self.windows}")
        elif isinstance(self.paged, str) and self.policy.model.device.type == "cuda" and self.options.graphs is None:
            notes.append(f"rollout: decoding without CUDA graphs, which is slower: {self.paged}")
        if self.positions is not None:
            notes.append(
                f"rollout: the model has {self.positions} positions; a completion that reaches the last one is cut there"
            )
        if self.steady is not None:
            notes.append(
                f"rollout: rotary frequencies change past {self.steady} tokens; rows that may be longer are decoded with generate"
            )
        return notes

    def exact(self) -> bool:
        """Not where end tokens were held back, nor for what ``generate`` decoded: its caches need not agree with a whole forward."""
        return self.policy.exact and not self.inexact

    def policy_version(self) -> int:
        return self.policy.version

    @torch.no_grad()
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Raises DataError for a prompt without tokens, or with no room for a completion."""
        rows = rows_of(requests, sampling, self.positions)
        apart = [row for row in rows if isinstance(self.windows, str) or not self._steady(row)]
        self.inexact = bool(apart) or sampling.min_completion_length > 0
        together = [] if isinstance(self.windows, str) else [row for row in rows if self._steady(row)]
        with self.policy.held(), packed_weights(self.policy.model):
            generate_rows(self.policy, apart, sampling, self.options.max_rows)
            if isinstance(self.paged, str) and not isinstance(self.windows, str):
                Decoding(self.policy, self.windows, sampling, self._limits()).run(together)
        if not isinstance(self.paged, str):
            self.paged.run(together, sampling)
        return [row.completion() for row in rows]

    def _limits(self) -> Limits:
        known = [bound for bound in (self.positions, self.steady) if bound is not None]
        return Limits(self.options.max_cache_tokens, self.options.max_rows, self.options.shrink, min(known, default=None))

    def _steady(self, row: Row) -> bool:
        return self.steady is None or len(row.request.prompt_ids) + row.limit <= self.steady


def learned_positions(model: PreTrainedModel) -> int | None:
    """How many positions the model has embeddings for; None where positions are computed."""
    tables = (
        module for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITION_TABLES
    )  # fmt: skip
    if next(tables, None) is None:
        return None
    return int(model.config.get_text_config(decoder=True).max_position_embeddings)


def steady_length(model: PreTrainedModel) -> int | None:
    """Tokens up to which rotary frequencies do not depend on a sequence's length (or its neighbours'); None: they never do."""
    config = model.config.get_text_config(decoder=True)
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [parameters] if "rope_type" in parameters else [p for p in parameters.values() if isinstance(p, dict)]
    changing = [kind for kind in kinds if kind.get("rope_type") in ("dynamic", "longrope")]
    trained = int(getattr(config, "max_position_embeddings", 0))
    return min((int(kind.get("original_max_position_embeddings") or trained) for kind in changing), default=None)


def usable_windows(policy: PolicyHandle) -> list[int | None] | str:
    """Each layer's window for decoding in batches of changing rows, or why the model cannot be decoded so."""
    windows = windows_of(policy.model.config)
    if isinstance(windows, str):
        return windows
    if "past_key_values" not in Forward(policy).knows:
        return "its forward takes no past_key_values"

    def run(rows: Sequence[Row], sampling: Sampling) -> None:
        Decoding(policy, windows, sampling, Limits(10**6, 2, 0.01)).run(rows)

    return trial(policy, run, ((2, 2), (5, 4), (4, 3))) or windows


def paged_decoding(
    policy: PolicyHandle, windows: Sequence[int | None], limits: Limits, options: TransformersEngineOptions
) -> PagedDecoding | str:
    """Decoding in pages and graphs, or why not. Raises ModelError where it was asked for and cannot be."""
    found = (
        "rollout.engine.graphs is off" if options.graphs is False else _paged_decoding(policy, windows, limits, options.compile)
    )
    for name, wanted in (("graphs", options.graphs), ("compile", options.compile)):
        if wanted and isinstance(found, str):
            raise ModelError(f"rollout.engine.{name}: not with this model here: {found}; leave it out")
    return found


def _paged_decoding(policy: PolicyHandle, windows: Sequence[int | None], limits: Limits, compiled: bool) -> PagedDecoding | str:
    if policy.model.device.type != "cuda":
        return "CUDA graphs need a CUDA device"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if policy.model.dtype == torch.float64:
        return "the attention kernel computes in float32 at most"
    config = policy.model.config.get_text_config(decoder=True)
    if strange := set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        return f"it has layers of another kind ({', '.join(sorted(strange))})"
    paged = PagedDecoding(policy, windows, limits, compiled)
    room = limits.positions or 10**6
    return trial(policy, paged.run, [(max(1, min(p, room - c)), c) for p, c in ((2, 3), (PAGE - 2, 6), (2 * PAGE, 3))]) or paged
