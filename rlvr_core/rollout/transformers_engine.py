"""The in-process engine: decodes with the policy's own weights, without ``generate``.

As many rows share a batch as the key-value cache may hold tokens; rows of one prompt share its prefill, ended rows leave the cache, waiting
ones enter. Each row is sampled from a counter-based stream of its own, so its text does not depend on which rows share its batch (but
through rounding at a near-tie). A model whose cache is not of keys and values alone is decoded with ``generate``, and a note says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlvr_core.contracts import PolicyHandle, RolloutEngine
from rlvr_core.records import Completion, Request, RowKey, Sampling
from rlvr_core.rollout.cache import windows_of
from rlvr_core.rollout.decoding import Decoding, Forward, Limits
from rlvr_core.rollout.fallback import generate_rows
from rlvr_core.rollout.rows import Row, rows_of

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

    def notes(self) -> Sequence[str]:
        notes = []
        if isinstance(self.windows, str):
            notes.append(f"rollout: decoding with generate, as rows cannot leave or enter this model's cache: {self.windows}")
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
        with self.policy.held():
            generate_rows(self.policy, apart, sampling, self.options.max_rows)
            if not isinstance(self.windows, str):
                known = [bound for bound in (self.positions, self.steady) if bound is not None]
                limits = Limits(
                    self.options.max_cache_tokens, self.options.max_rows, self.options.shrink, min(known, default=None)
                )
                Decoding(self.policy, self.windows, sampling, limits).run(row for row in rows if self._steady(row))
        return [row.completion() for row in rows]

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
    try:
        off = disagreement(policy, windows)
    except Exception as error:  # whatever a foreign forward does with a cache it did not make
        return f"its forward failed with a cache of ours ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    if float(off.max()) <= 1e-3 or (not policy.exact and float(off.median()) <= 0.1):
        return windows
    return f"its log-probs are off by {float(off.max()):.2g} nats in a batch of changing rows"


@torch.no_grad()
def disagreement(policy: PolicyHandle, windows: Sequence[int | None]) -> Tensor:
    """[N] how far log-probs of tokens decoded in a small batch, rows leaving and entering, are from those of a whole forward, in nats."""
    size = policy.model.config.get_text_config(decoder=True).vocab_size
    lengths = ((2, 2), (5, 4), (4, 3))  # prompt, completion: most tokens are written in rows that start late
    requests = [Request(RowKey(0, i, 0), tuple((7 * i + j) % size for j in range(p)), c) for i, (p, c) in enumerate(lengths)]
    sampling = Sampling(0.0, 4, (), (), 0)
    rows = rows_of(requests, sampling, None)
    Decoding(policy, windows, sampling, Limits(10**6, 2, 0.01)).run(rows)
    return torch.cat([_off(policy, row) for row in rows])


def _off(policy: PolicyHandle, row: Row) -> Tensor:
    ids = torch.tensor([row.sequence], device=policy.model.device)
    logits = policy.decode(input_ids=ids, use_cache=False).logits[0].double()
    start = len(row.request.prompt_ids)
    whole = logits.log_softmax(-1)[start - 1 : -1].gather(-1, ids[0, start:, None]).squeeze(-1)
    off: Tensor = (whole.cpu() - torch.tensor(row.logprobs, dtype=torch.float64)).abs()
    return off
