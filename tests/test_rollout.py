"""The in-process engine: right tokens, right log-probs, whatever shares the batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tiny_models import engine

from rlvr_core.randomness import stream_seeds, uniform
from rlvr_core.records import Completion, Request, Rollout, RowKey, Sampling, Selection
from rlvr_core.rollout.collect import collect
from rlvr_core.testing import scripted_rollouts, tiny_policy, tiny_tokenizer

PROMPTS = [(5, 6, 7), (8, 9), (5, 6, 7, 10, 11), (12,)]


def requests(samples: int = 3) -> list[Request]:
    return [Request(RowKey(1, p, s), ids) for p, ids in enumerate(PROMPTS) for s in range(samples)]


def sampling(temperature: float = 1.0, **changes: Any) -> Sampling:
    return Sampling(
        **{
            "temperature": temperature,
            "max_completion_length": 12,
            "stop_token_ids": (1, 2, 3, 4),
            "stop_strings": (),
            "seed": 7,
            **changes,
        }
    )


def by_key(completions: list[Completion]) -> dict[RowKey, tuple[int, ...]]:
    return {c.key: c.ids for c in completions}


def test_a_rows_text_does_not_depend_on_which_rows_share_its_batch() -> None:
    model = tiny_policy()
    together = by_key(engine(model).generate(requests(), sampling()))
    alone = by_key(engine(model, max_rows=1).generate(requests()[::-1], sampling()))
    never_dropped = by_key(engine(model, shrink=1.0, max_rows=5).generate(requests(), sampling()))
    assert together == alone == never_dropped
    assert len(set(together.values())) > 4  # rows differ from each other


def test_another_seed_draws_other_completions() -> None:
    model = tiny_policy()
    one, other = (by_key(engine(model).generate(requests(), sampling(seed=seed))) for seed in (1, 2))
    assert one != other


def test_tokens_are_drawn_from_the_models_distribution() -> None:
    model = tiny_policy()
    many = [Request(RowKey(1, 0, s), PROMPTS[0]) for s in range(4000)]
    drawn = Counter(c.ids[0] for c in engine(model, max_rows=4000).generate(many, sampling(max_completion_length=1)))
    probabilities = torch.softmax(model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1], -1).detach()
    for token in range(32):
        p = float(probabilities[token])
        assert abs(drawn[token] / 4000 - p) < 5 * (p * (1 - p) / 4000) ** 0.5 + 1e-9


def test_streams_are_uniform_and_do_not_repeat() -> None:
    seeds = stream_seeds([("a", i) for i in range(200)], torch.device("cpu"))
    drawn = torch.cat([uniform(seeds, torch.full_like(seeds, t)) for t in range(200)])
    assert drawn.min() >= 0 and drawn.max() < 1
    assert abs(float(drawn.mean()) - 0.5) < 0.01
    assert abs(float((drawn < 0.1).double().mean()) - 0.1) < 0.01
    assert len(drawn.unique()) == len(drawn)


def test_completions_end_with_a_stop_token_or_at_the_limit() -> None:
    for completion in engine(tiny_policy()).generate(requests(), sampling()):
        ended = completion.ids[-1] in (1, 2, 3, 4)
        assert completion.finish_reason == ("stop" if ended else "length")
        assert ended or len(completion.ids) == 12
        assert not any(token in (1, 2, 3, 4) for token in completion.ids[:-1])
        assert len(completion.logprobs) == len(completion.ids)


def test_stop_strings_end_a_completion_with_the_token_that_completes_them() -> None:
    model, tokenizer = tiny_policy(vocab_size=257), tiny_tokenizer()
    free = engine(model).generate(requests(1), sampling(stop_token_ids=(), max_completion_length=20))
    text = tokenizer.decode(free[0].ids[4:6])
    stopped = engine(model).generate(requests(1), sampling(stop_token_ids=(), max_completion_length=20, stop_strings=(text,)))
    first = stopped[0]
    assert first.finish_reason == "stop"
    assert text in tokenizer.decode(first.ids)
    assert text not in tokenizer.decode(first.ids[:-1])
    assert first.ids == free[0].ids[: len(first.ids)]


class Asking:
    """A sampler that wants more as often as told."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def select(self, scored: list[Rollout], round: int) -> Selection:
        return Selection(scored, refill=2 if round < self.rounds else 0)


@pytest.mark.parametrize(("wanted", "allowed", "expected"), [(0, 4, 0), (2, 4, 2), (9, 3, 3), (5, 0, 0)])
def test_refills_are_bounded_and_number_their_prompts_on(wanted: int, allowed: int, expected: int) -> None:
    calls: list[tuple[int, int]] = []

    def roll(number: int, first: int) -> list[Rollout]:
        calls.append((number, first))
        return scripted_rollouts([[1, 0]] * number, [[2, 2]] * number)

    collected = collect(roll, Asking(wanted).select, 4, allowed)
    assert collected.rounds == expected
    assert calls == [(4, 0)] + [(2, 4 + 2 * i) for i in range(expected)]
    assert len(collected.scored) == 2 * (4 + 2 * expected)
