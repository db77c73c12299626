"""Decoding in a batch that rows leave and enter: right for every kind of attention, and within its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_models import ATTENTION, EXPERTS, GPT2, OTHERS, WINDOW, Handle, engine, made
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, GPT2Config, LlamaConfig, PreTrainedModel

from rlvr_core.components.options import TransformersEngineOptions
from rlvr_core.errors import DataError
from rlvr_core.policy.handle import LocalPolicy
from rlvr_core.records import Completion, Request, RowKey, Sampling
from rlvr_core.rollout.draw import greedy, sample
from rlvr_core.rollout.transformers_engine import TransformersEngine
from rlvr_core.spec.model import RolloutSection
from rlvr_core.testing import tiny_policy, tiny_tokenizer
from rlvr_core.testing.bench import Bench

PROMPTS = [(5, 6, 7), (8, 9), (5, 6, 7, 10, 11), (12,), (3,) * 9 + (14,), (4, 5)]
LIMITS = [3 * WINDOW, 14, 3 * WINDOW, 4, 3 * WINDOW, 9]
REQUESTS = [Request(RowKey(1, i, 0), ids, limit) for i, (ids, limit) in enumerate(zip(PROMPTS, LIMITS, strict=True))]
NARROW = {"max_rows": 4, "max_cache_tokens": 90}
"""Some rows must wait, and enter while others are under way."""


def sampling(temperature: float = 1.0, **changes: Any) -> Sampling:
    plain = {"max_completion_length": 3 * WINDOW, "stop_token_ids": (1, 2), "stop_strings": (), "seed": 7}
    return Sampling(temperature, **{**plain, **changes})


def generated(model: PreTrainedModel, request: Request, **changes: Any) -> list[int]:
    """What ``generate`` writes for this row alone, greedily."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    ids = torch.tensor([request.prompt_ids])
    changes = {"eos_token_id": [1, 2], "pad_token_id": 0, "max_new_tokens": request.max_completion_length, **changes}
    found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **changes)  # type: ignore[operator]
    model.generation_config = own
    return list(found[0, ids.shape[1] :].tolist())


def forced(model: PreTrainedModel, request: Request, completion: Completion, temperature: float = 1.0) -> Tensor:
    """[T,V] log-probs of a forward over the whole row, where the completion stands."""
    ids = torch.tensor([request.prompt_ids + completion.ids])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0].double()
    return torch.log_softmax(logits / temperature, -1)[len(request.prompt_ids) - 1 : -1]


def off(model: PreTrainedModel, found: Sequence[Completion], temperature: float = 1.0) -> float:
    """Most that log-probs differ from those of a whole forward, in nats."""
    worst = 0.0
    for request, completion in zip(REQUESTS, found, strict=True):
        expected = forced(model, request, completion, temperature).gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
        worst = max(worst, float((expected - torch.tensor(completion.logprobs, dtype=torch.float64)).abs().max()))
    return worst


@pytest.mark.parametrize("name", ATTENTION)
def test_greedy_ids_are_those_of_generate_row_by_row(name: str) -> None:
    model = ATTENTION[name]().double()
    decoder = engine(model, **NARROW)
    found = decoder.generate(REQUESTS, sampling(0.0))
    assert decoder.exact()
    for request, completion in zip(REQUESTS, found, strict=True):
        assert list(completion.ids) == generated(model, request)
    assert off(model, found) < 1e-5  # eager attention and ALiBi's soft-max are float32 whatever the model is


@pytest.mark.parametrize("name", [*ATTENTION, *EXPERTS, *OTHERS])
def test_in_float32_logprobs_are_those_of_a_whole_forward_and_greedy_tokens_its_likeliest(name: str) -> None:
    model = {**ATTENTION, **EXPERTS, **OTHERS}[name]()
    decoder = engine(model, **NARROW)
    assert off(model, decoder.generate(REQUESTS, sampling(0.7)), 0.7) < 1e-4
    for request, completion in zip(REQUESTS, decoder.generate(REQUESTS, sampling(0.0)), strict=True):
        likeliest = forced(model, request, completion).max(-1).values
        assert (likeliest - torch.tensor(completion.logprobs).double()).abs().max() < 1e-4  # a difference is a near-tie


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_that_caches_something_else_is_decoded_with_generate_and_a_note_says_so(name: str) -> None:
    model = OTHERS[name]()
    decoder = engine(model)
    assert "decoding with generate" in decoder.notes()[0]
    model.generation_config.repetition_penalty = 5.0  # the model's own settings are not the policy's distribution
    found = decoder.generate(REQUESTS, sampling(1.0))
    assert not decoder.exact()
    assert model.generation_config.repetition_penalty == 5.0
    assert off(model, found) < 1e-4
    assert [decoder.generate([request], sampling(1.0))[0] for request in REQUESTS] == found
    for completion, request in zip(found, REQUESTS, strict=True):
        stopped = completion.ids[-1] in (1, 2)
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert stopped or len(completion.ids) == request.max_completion_length


def test_a_forward_that_disagrees_with_itself_is_decoded_with_generate() -> None:
    model = ATTENTION["llama"]()
    handle, forward = Handle(model), Handle(model).decode

    def blind(**inputs: Any) -> Any:
        return forward(**{name: value for name, value in inputs.items() if name != "attention_mask"})

    handle.decode = blind  # type: ignore[method-assign]
    decoder = TransformersEngine(TransformersEngineOptions())
    decoder.start(handle)
    assert "its log-probs are off by" in decoder.notes()[0]
    assert not engine(model).notes()


@pytest.mark.parametrize("name", [*ATTENTION, *EXPERTS])
def test_rounding_to_bfloat16_is_no_such_disagreement(name: str) -> None:
    handle = Handle({**ATTENTION, **EXPERTS}[name]().bfloat16())
    handle.exact = False
    decoder = TransformersEngine(TransformersEngineOptions())
    decoder.start(handle)
    assert not [note for note in decoder.notes() if "generate" in note]


class Watching(Handle):
    """Also notes how many columns the cache has before each forward."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.columns: list[int] = []

    def decode(self, **inputs: Any) -> Any:
        cache = inputs.get("past_key_values")
        self.columns.append(0 if cache is None else cache.width)
        return super().decode(**inputs)


def watched(model: PreTrainedModel, **options: Any) -> tuple[TransformersEngine, Watching]:
    decoder, handle = TransformersEngine(TransformersEngineOptions(**options)), Watching(model)
    decoder.start(handle)
    handle.shapes.clear()
    handle.columns.clear()
    return decoder, handle


TINY = tiny_policy()
ALONE: dict[tuple[int, int, int], Completion] = {}


def alone(request: Request) -> Completion:
    """The row as it is with nothing beside it."""
    name = (request.key.prompt, request.key.sample, request.max_completion_length or 0)
    if name not in ALONE:
        ALONE[name] = engine(TINY).generate([request], sampling(0.8))[0]
    return ALONE[name]


@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 18)), min_size=1, max_size=10),
    tokens=st.integers(1, 200),
    max_rows=st.integers(1, 12),
    shrink=st.sampled_from([0.01, 0.2, 1.0]),
)
@settings(max_examples=30, deadline=None)
def test_whatever_shares_the_batch_a_row_stays_the_same_and_the_cache_within_its_limits(
    rows: list[tuple[int, int]], tokens: int, max_rows: int, shrink: float
) -> None:
    requests = [Request(RowKey(1, p, s), PROMPTS[p], limit) for s, (p, limit) in enumerate(rows)]
    decoder, handle = watched(TINY, max_cache_tokens=tokens, max_rows=max_rows, shrink=shrink)
    found = decoder.generate(requests, sampling(0.8))
    assert [(c.key, c.ids, c.finish_reason) for c in found] == [(a.key, a.ids, a.finish_reason) for a in map(alone, requests)]
    for (number, new), columns in zip(handle.shapes, handle.columns, strict=True):
        assert number <= max_rows
        assert number == 1 or columns == 0 or number * (columns + new) <= tokens


def test_rows_of_one_prompt_share_its_prefill_and_ended_rows_leave() -> None:
    decoder, handle = watched(TINY, shrink=0.01)
    requests = [Request(RowKey(1, p, s), (p + 3,) * 6, 2 + s) for p in range(2) for s in range(4)]
    decoder.generate(requests, sampling(stop_token_ids=()))
    assert handle.shapes == [(2, 5), (8, 1), (8, 1), (6, 1), (4, 1), (2, 1)]


def test_waiting_rows_enter_while_others_run() -> None:
    decoder, handle = watched(TINY, max_rows=2, shrink=0.01)
    requests = [Request(RowKey(1, 0, s), (5,), limit) for s, limit in enumerate([12, 4, 4, 4])]
    decoder.generate(requests, sampling(stop_token_ids=()))
    assert [shape for shape in handle.shapes if shape == (2, 1)] == [(2, 1)] * 12
    assert len(handle.shapes) == 12


def test_columns_that_no_row_needs_any_more_are_forgotten() -> None:
    decoder, handle = watched(TINY, shrink=0.01)
    requests = [Request(RowKey(1, 0, 0), (5,) * 40, 2), Request(RowKey(1, 1, 0), (6,), 5)]
    decoder.generate(requests, sampling(stop_token_ids=()))
    assert handle.columns[1:] == [39, 40, 2, 3, 4]


def test_rows_put_back_half_written_go_on_where_they_were() -> None:
    decoder, handle = watched(TINY, max_cache_tokens=40)
    requests = [Request(RowKey(1, 0, s), PROMPTS[0], 18) for s in range(4)]
    found = decoder.generate(requests, sampling(0.8, stop_token_ids=()))
    free = engine(TINY).generate(requests, sampling(0.8, stop_token_ids=()))
    assert [c.ids for c in found] == [c.ids for c in free]
    assert any(new > 1 for _, new in handle.shapes[1:])  # a half-written row was prefilled


def test_before_the_minimum_length_nothing_ends_a_row() -> None:
    decoder = engine(TINY)
    for request, completion in zip(REQUESTS, decoder.generate(REQUESTS, sampling(0.0, min_completion_length=4)), strict=True):
        assert list(completion.ids) == generated(TINY, request, min_new_tokens=4)
    assert not decoder.exact()
    ends = tuple(range(1, 30))
    (drawn,) = decoder.generate([Request(RowKey(1, 0, 0), (5,))], sampling(stop_token_ids=ends, min_completion_length=6))
    assert len(drawn.ids) >= 6
    whole = forced(TINY, Request(RowKey(1, 0, 0), (5,)), drawn)[:6]
    whole[:, list(ends)] = -torch.inf
    expected = whole.log_softmax(-1).gather(-1, torch.tensor(drawn.ids[:6])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(drawn.logprobs[:6], dtype=torch.float64), expected)
    decoder.generate(REQUESTS[:1], sampling())
    assert decoder.exact()


def test_a_stop_string_completed_before_the_minimum_length_does_not_end_the_row_later() -> None:
    model = tiny_policy(vocab_size=257)
    decoder, request = engine(model), Request(RowKey(1, 0, 0), (5, 6))
    (free,) = decoder.generate([request], sampling(0.0, stop_token_ids=()))
    text = decoder.policy.tokenizer.decode(free.ids[2:3])
    (held,) = decoder.generate([request], sampling(0.0, stop_token_ids=(), stop_strings=(text,), min_completion_length=5))
    again = next((i + 1 for i, token in enumerate(free.ids) if i >= 4 and token == free.ids[2]), len(free.ids))
    assert held.ids == free.ids[:again]


def test_a_minimum_above_the_maximum_is_refused() -> None:
    with pytest.raises(ValidationError, match="5 is above max_completion_length"):
        RolloutSection(max_completion_length=4, min_completion_length=5)


def test_a_completion_ends_where_the_models_positions_do() -> None:
    model = made(GPT2Config, **GPT2, max_position_embeddings=16).double()
    decoder = engine(model, shrink=1.0)
    assert "16 positions" in decoder.notes()[0]
    requests = [Request(RowKey(1, 0, 0), (5,) * 10), Request(RowKey(1, 1, 0), (6,), 4)]
    long, short = decoder.generate(requests, sampling(0.0, stop_token_ids=()))
    assert (len(long.ids), long.finish_reason, len(short.ids)) == (6, "length", 4)
    assert list(long.ids) == generated(model, requests[0], max_new_tokens=6, eos_token_id=None)
    with pytest.raises(DataError, match="no room for a completion: the model has 16 positions"):
        decoder.generate([Request(RowKey(1, 0, 0), (5,) * 16)], sampling())


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(DataError, match="prompt 3 of step 1 has no tokens"):
        engine(TINY).generate([Request(RowKey(1, 3, 0), ())], sampling())


def test_rows_for_which_rotary_frequencies_would_change_are_decoded_apart() -> None:
    model = made(
        LlamaConfig, max_position_embeddings=16, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    ).double()
    decoder = engine(model)
    assert "change past 16 tokens" in decoder.notes()[0]
    for request, completion in zip(REQUESTS, decoder.generate(REQUESTS, sampling(0.0)), strict=True):
        assert list(completion.ids) == generated(model, request)
    assert not decoder.exact()
    decoder.generate([Request(RowKey(1, 0, 0), (5,), 15)], sampling(0.0))
    assert decoder.exact()


@given(size=st.integers(1, 200), seed=st.integers(0, 2**31), number=st.floats(0, 1, exclude_max=True), narrow=st.booleans())
def test_a_drawn_token_is_where_the_cumulative_probability_passes_the_number(
    size: int, seed: int, number: float, narrow: bool
) -> None:
    logits = 3 * torch.randn(2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if narrow:
        logits[:, torch.arange(size) % 3 != seed % min(size, 3)] = -torch.inf
    logprobs = torch.log_softmax(logits, -1)
    ids, found = sample(logits.clone(), torch.tensor([number, number], dtype=torch.float64))
    cumulative = logprobs.exp().cumsum(-1)
    above = cumulative.gather(-1, ids[:, None])[:, 0]
    below = above - logprobs.exp().gather(-1, ids[:, None])[:, 0]
    assert (above > number - 1e-12).all() and (below < number + 1e-12).all()
    assert (found > -torch.inf).all()
    torch.testing.assert_close(found, logprobs.gather(-1, ids[:, None])[:, 0])
    ids, found = greedy(logits.clone())
    torch.testing.assert_close(found, logprobs.max(-1).values)


def test_autocast_copies_each_weight_once_a_generate() -> None:
    bench = Bench.of({"name": "grpo"}, dtype=torch.float32)
    root = bench.learner.root
    root.numerics = replace(root.numerics, autocast=torch.bfloat16)
    decoder = TransformersEngine(TransformersEngineOptions())
    decoder.start(LocalPolicy(bench.learner, tiny_tokenizer()))
    matrices = sum(isinstance(module, torch.nn.Linear) for module in root.policy.modules())
    for length in (1, 12):
        with _Casts() as casts:
            decoder.generate([Request(RowKey(1, 0, 0), (5,), length)], sampling(stop_token_ids=()))
        assert casts.matrices == matrices
    assert not decoder.exact()


class _Casts(TorchDispatchMode):
    """Counts matrices that are cast from float32 to bfloat16."""

    matrices = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.bfloat16:
            self.matrices += isinstance(args[0], torch.nn.Parameter) and args[0].dim() == 2
        return function(*args, **(kwargs or {}))
