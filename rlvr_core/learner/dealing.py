"""Dealing rows to ranks and micro-batches by token count. The same on every rank, from what every rank knows."""

from __future__ import annotations

from collections.abc import Sequence

MicroBatches = list[list[int]]
"""Row indices of each micro-batch; an empty one is a dummy that only keeps ranks in step."""


def deal(lengths: Sequence[int], ranks: int, budget: int, packed: bool = False) -> list[MicroBatches]:
    """Rows with these lengths -> micro-batches for each rank, equally many on all.

    Longest first, each to the rank with the fewest tokens so far; within a rank, neighbours in length share a micro-batch of at most
    ``budget`` tokens, padding included unless they are ``packed`` end to end. A longer row goes alone. A row is never split.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    loads, hands = [0] * ranks, [[] for _ in range(ranks)]  # type: tuple[list[int], list[list[int]]]
    for row in order:
        rank = loads.index(min(loads))
        loads[rank] += lengths[row]
        hands[rank].append(row)
    dealt = [_fill(hand, lengths, budget, packed) for hand in hands]
    rounds = max((len(batches) for batches in dealt), default=0)
    return [batches + [[] for _ in range(rounds - len(batches))] for batches in dealt]


def _fill(rows: Sequence[int], lengths: Sequence[int], budget: int, packed: bool) -> MicroBatches:
    """Consecutive rows, longest first, into micro-batches of at most ``budget`` tokens."""
    batches: MicroBatches = []
    for row in rows:
        if batches and _size([*batches[-1], row], lengths, packed) <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _size(rows: Sequence[int], lengths: Sequence[int], packed: bool) -> int:
    """Tokens that a forward over these rows, longest first, takes."""
    return sum(lengths[row] for row in rows) if packed else lengths[rows[0]] * len(rows)


def split_groups(groups: Sequence[Sequence[int]], lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Whole groups of rows -> at most ``parts`` minibatches of rows, even in tokens. None is empty."""
    weight = [sum(lengths[row] for row in group) for group in groups]
    loads, hands = [0] * parts, [[] for _ in range(parts)]  # type: tuple[list[int], list[list[int]]]
    for index in sorted(range(len(groups)), key=lambda i: (-weight[i], i)):
        part = loads.index(min(loads))
        loads[part] += weight[index]
        hands[part].append(index)
    return [sorted(row for index in hand for row in groups[index]) for hand in hands if hand]


def padded_tokens(dealt: Sequence[MicroBatches], lengths: Sequence[int], packed: bool = False) -> tuple[int, int]:
    """(padding, all) tokens that these micro-batches forward, dummies left out."""
    batches = [batch for rank in dealt for batch in rank if batch]
    padded = sum(_size(batch, lengths, packed) for batch in batches)
    return padded - sum(lengths[row] for batch in batches for row in batch), padded
