"""Dealing rows to ranks and micro-batches by token count. The same on every rank, from what every rank knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MicroBatches = list[list[int]]
"""Row indices of each micro-batch; an empty one is a dummy that only keeps ranks in step."""


def overhead_tokens(device: str) -> int:
    """What a micro-batch costs beside its tokens on a kind of device, in tokens: one forward and backward whatever it holds.

    CPU: 20 to 65 were measured on one thread for 2 to 30 M parameters, and more threads make tokens cheaper but not this; steps were
    about as fast with 64 as with 128. Accelerators: the launches of every layer's kernels, a guess.
    """
    return 96 if device == "cpu" else 4096


def deal(lengths: Sequence[int], ranks: int, budget: int, overhead: int, packed: bool = False) -> list[MicroBatches]:
    """Rows with these lengths -> micro-batches for each rank, equally many on all.

    Longest first, each to the rank with the fewest tokens so far. Within a rank, micro-batches hold at most ``budget`` tokens, padding
    included unless rows are ``packed`` end to end, and cost as little as they can, each its tokens and ``overhead`` more. A longer row
    goes alone. A row is never split.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    loads, hands = [0] * ranks, [[] for _ in range(ranks)]  # type: tuple[list[int], list[list[int]]]
    for row in order:
        rank = loads.index(min(loads))
        loads[rank] += lengths[row]
        hands[rank].append(row)
    dealt = [_packed(hand, lengths, budget) if packed else _padded(hand, lengths, budget, overhead) for hand in hands]
    rounds = max((len(batches) for batches in dealt), default=0)
    return [batches + [[] for _ in range(rounds - len(batches))] for batches in dealt]


def _padded(rows: Sequence[int], lengths: Sequence[int], budget: int, overhead: int) -> MicroBatches:
    """Rows, longest first, into the micro-batches that cost least. Neighbours in length belong together: others only add padding.

    The best split of the rows from ``first`` on is a micro-batch of ``first`` and some behind it, and the best split of what is left.
    """
    least = np.zeros(len(rows) + 1, dtype=np.int64)  # cost of the rows from here on
    number = np.ones(len(rows), dtype=np.int64)  # rows of the micro-batch that begins here
    counts = np.arange(1, len(rows) + 1)
    for first in range(len(rows) - 1, -1, -1):
        length = lengths[rows[first]]
        most = min(max(1, budget // max(1, length)), len(rows) - first)
        costs = length * counts[:most] + least[first + 1 : first + 1 + most]
        best = int(costs.argmin())
        number[first], least[first] = best + 1, costs[best] + overhead
    batches: MicroBatches = []
    first = 0
    while first < len(rows):
        batches.append(list(rows[first : first + number[first]]))
        first += len(batches[-1])
    return batches


def _packed(rows: Sequence[int], lengths: Sequence[int], budget: int) -> MicroBatches:
    """Rows, longest first, each into the first micro-batch with room for it: there is no padding, so the fewer the better."""
    batches: MicroBatches = []
    room = np.full(len(rows), budget)  # of micro-batches, those not begun included
    for row in rows:
        found = len(batches) if lengths[row] > budget else int((room >= lengths[row]).argmax())
        if found == len(batches):
            batches.append([])
        batches[found].append(row)
        room[found] -= lengths[row]
    return batches


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
    held = [sum(lengths[row] for row in batch) for batch in batches]
    forwarded = held if packed else [max(lengths[row] for row in batch) * len(batch) for batch in batches]
    return sum(forwarded) - sum(held), sum(forwarded)
