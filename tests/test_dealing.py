"""Rows dealt to ranks and micro-batches: all of them, within the budget, at the least cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlvr_core.learner import dealing
from rlvr_core.learner.dealing import MicroBatches, deal, padded_tokens

lengths_of_rows = st.lists(st.integers(1, 40), min_size=1, max_size=30)
few_lengths = st.lists(st.integers(1, 12), min_size=1, max_size=6)
budgets = st.integers(1, 100)
overheads = st.integers(0, 60)


def size(batch: Sequence[int], lengths: Sequence[int], packed: bool) -> int:
    """Tokens that a forward over these rows takes."""
    return sum(lengths[row] for row in batch) if packed else max(lengths[row] for row in batch) * len(batch)


def cost(batches: MicroBatches, lengths: Sequence[int], overhead: int) -> int:
    """What padded micro-batches cost, in tokens."""
    return sum(size(batch, lengths, False) + overhead for batch in batches)


def fits(batches: MicroBatches, lengths: Sequence[int], budget: int, packed: bool) -> bool:
    """No micro-batch of more than one row is over the budget."""
    return all(len(batch) == 1 or size(batch, lengths, packed) <= budget for batch in batches)


def greedy(lengths: Sequence[int], budget: int, packed: bool) -> MicroBatches:
    """Longest first, each micro-batch filled before the next begins."""
    batches: MicroBatches = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batches and size([*batches[-1], row], lengths, packed) <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def partitions(rows: Sequence[int]) -> Iterator[MicroBatches]:
    """Every way to put rows into micro-batches, neighbours in length or not."""
    if not rows:
        yield []
        return
    first, rest = rows[0], rows[1:]
    for batches in partitions(rest):
        yield [[first], *batches]
        for place in range(len(batches)):
            yield [*batches[:place], [first, *batches[place]], *batches[place + 1 :]]


@given(lengths_of_rows, st.integers(1, 4), budgets, overheads, st.booleans())
@example([5, 5], 1, 6, 60, False)
@example([5, 5], 1, 6, 60, True)
def test_every_row_is_dealt_once_within_the_budget_and_ranks_have_equally_many_micro_batches(
    lengths: list[int], ranks: int, budget: int, overhead: int, packed: bool
) -> None:
    dealt = deal(lengths, ranks, budget, overhead, packed)
    assert len(dealt) == ranks and len({len(batches) for batches in dealt}) == 1
    there = [batch for batches in dealt for batch in batches if batch]
    assert sorted(row for batch in there for row in batch) == list(range(len(lengths)))
    assert fits(there, lengths, budget, packed)
    assert all(not later or earlier for batches in dealt for earlier, later in itertools.pairwise(batches))
    assert deal(lengths, ranks, budget, overhead, packed) == dealt


@given(few_lengths, st.integers(1, 50), overheads)
@example([12, 1, 1, 1], 50, 0)
@example([3, 2, 1], 50, 60)
def test_no_way_to_put_rows_together_costs_less(lengths: list[int], budget: int, overhead: int) -> None:
    [batches] = deal(lengths, 1, budget, overhead)
    ways = [way for way in partitions(range(len(lengths))) if fits(way, lengths, budget, False)]
    assert cost(batches, lengths, overhead) == min(cost(way, lengths, overhead) for way in ways)


@given(lengths_of_rows, budgets, overheads)
@example([3, 2, 1], 100, 60)
def test_micro_batches_never_cost_more_than_filled_ones(lengths: list[int], budget: int, overhead: int) -> None:
    [batches] = deal(lengths, 1, budget, overhead)
    assert cost(batches, lengths, overhead) <= cost(greedy(lengths, budget, False), lengths, overhead)


@given(lengths_of_rows, budgets)
@example([6, 5, 5, 4], 10)  # one fewer than filled one after the other
def test_packed_micro_batches_are_few(lengths: list[int], budget: int) -> None:
    [batches] = deal(lengths, 1, budget, 0, packed=True)
    assert len(batches) <= len(greedy(lengths, budget, True))
    beginning = [size(batch, lengths, True) for batch in batches]
    smallest = [min(lengths[row] for row in batch) for batch in batches]
    assert all(tokens + least > budget for place, tokens in enumerate(beginning) for least in smallest[place + 1 :])


def test_the_overhead_decides_between_padding_and_more_micro_batches() -> None:
    lengths = [100, 50, 50, 10]
    assert deal(lengths, 1, 1000, 5) == [[[0], [1, 2], [3]]]
    assert deal(lengths, 1, 1000, 45) == [[[0], [1, 2, 3]]]
    assert deal(lengths, 1, 1000, 1000) == [[[0, 1, 2, 3]]]
    assert deal(lengths, 1, 120, 1000) == [[[0], [1, 2], [3]]]
    assert padded_tokens(deal(lengths, 1, 1000, 45), lengths) == (40, 250)


@pytest.mark.parametrize("packed", [False, True])
def test_a_micro_batch_may_be_as_large_as_the_budget_and_no_larger(packed: bool) -> None:
    assert deal([5, 5], 1, 10, 100, packed) == [[[0, 1]]]
    assert deal([5, 5], 1, 9, 100, packed) == [[[0], [1]]]


def test_a_row_beyond_the_budget_goes_alone() -> None:
    for packed in (False, True):
        assert deal([90, 80, 3, 2], 1, 10, 1000, packed) == [[[0], [1], [2, 3]]]


# Mistakes planted on purpose: the tests above must see them, by their examples, whatever else is drawn.


def _last_row_lost(right: Callable[..., MicroBatches]) -> Callable[..., MicroBatches]:
    return lambda rows, *rest: right(rows[:-1], *rest)


def _one_token_more(right: Callable[..., MicroBatches]) -> Callable[..., MicroBatches]:
    return lambda rows, lengths, budget, *rest: right(rows, lengths, budget + 1, *rest)


def _twice_the_budget(right: Callable[..., MicroBatches]) -> Callable[..., MicroBatches]:
    return lambda rows, lengths, budget, *rest: right(rows, lengths, 2 * budget, *rest)


def _overhead_forgotten(right: Callable[..., MicroBatches]) -> Callable[..., MicroBatches]:
    return lambda rows, lengths, budget, overhead: right(rows, lengths, budget, 0)


def _filled(right: Callable[..., MicroBatches]) -> Callable[..., MicroBatches]:
    return lambda rows, lengths, budget, *rest: right(rows, lengths, budget, 10**9)


def _alone(right: Callable[..., MicroBatches]) -> Callable[..., MicroBatches]:
    return lambda rows, *rest: [[row] for row in rows]


DEALT = test_every_row_is_dealt_once_within_the_budget_and_ranks_have_equally_many_micro_batches
EXACT = test_a_micro_batch_may_be_as_large_as_the_budget_and_no_larger


@pytest.mark.parametrize(
    ("part", "mistake", "test"),
    [
        ("_padded", _last_row_lost, DEALT),
        ("_packed", _last_row_lost, DEALT),
        ("_padded", _twice_the_budget, DEALT),
        ("_packed", _twice_the_budget, DEALT),
        ("_padded", _one_token_more, lambda: EXACT(False)),
        ("_packed", _one_token_more, lambda: EXACT(True)),
        ("_padded", _overhead_forgotten, test_no_way_to_put_rows_together_costs_less),
        ("_padded", _filled, test_no_way_to_put_rows_together_costs_less),
        ("_padded", _overhead_forgotten, test_micro_batches_never_cost_more_than_filled_ones),
        ("_padded", _overhead_forgotten, test_the_overhead_decides_between_padding_and_more_micro_batches),
        ("_packed", _alone, test_packed_micro_batches_are_few),
        ("_padded", _filled, test_the_overhead_decides_between_padding_and_more_micro_batches),
    ],
)
def test_a_planted_mistake_is_seen(part: str, mistake: Any, test: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealing, part, mistake(getattr(dealing, part)))
    with pytest.raises((AssertionError, ExceptionGroup)):
        test()
