"""Decoding with the model's own ``generate``, for architectures whose cache cannot lose or gain rows.

Rows of one prompt go together, so there is no padding; every one of them runs as long as the longest. Tokens are drawn, recorded and
ended by the same code as elsewhere; ``generate`` is only handed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from rlvr_core.contracts import PolicyHandle
from rlvr_core.records import Sampling
from rlvr_core.rollout.decoding import Sampler
from rlvr_core.rollout.rows import Recorder, Row


class _Drawing(LogitsProcessor):
    """Draws each row's token, records it, and leaves ``generate`` nothing else to choose."""

    def __init__(self, rows: Sequence[Row], sampler: Sampler, recorder: Recorder, device: torch.device) -> None:
        self.rows, self.sampler, self.recorder = rows, sampler, recorder
        self.seeds = torch.tensor([row.seed for row in rows], dtype=torch.int64, device=device)
        self.counters = torch.zeros_like(self.seeds)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ids, logprobs = self.sampler(scores.clone(), self.seeds, self.counters)
        self.counters = self.counters + 1
        self.recorder.record(self.rows, ids.tolist(), logprobs.tolist())
        return torch.full_like(scores, -torch.inf).scatter(-1, ids[:, None], 0.0)


class _AllEnded(StoppingCriteria):
    """Stops once every row has ended."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        over = all(row.finish_reason is not None for row in self.rows)
        return torch.full((len(input_ids),), over, device=input_ids.device)


def generate_rows(policy: PolicyHandle, rows: Iterable[Row], sampling: Sampling, max_rows: int) -> None:
    """Write every row to its end."""
    device = policy.model.device
    sampler, recorder = Sampler(sampling, device), Recorder(sampling, policy)
    for prompt, group in groupby(sorted(rows, key=_prompt), key=_prompt):
        while part := list(islice(group, max_rows)):
            ids = torch.tensor([prompt] * len(part), dtype=torch.int64, device=device)
            with _plain_settings(policy.model):
                policy.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=GenerationConfig(max_new_tokens=max(row.limit for row in part), pad_token_id=0),
                    logits_processor=LogitsProcessorList([_Drawing(part, sampler, recorder, device)]),
                    stopping_criteria=StoppingCriteriaList([_AllEnded(part)]),
                )


def _prompt(row: Row) -> tuple[int, ...]:
    return row.request.prompt_ids


@contextmanager
def _plain_settings(model: PreTrainedModel) -> Iterator[None]:
    """Without the model's own generation settings: penalties and forced tokens would be applied in silence."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
