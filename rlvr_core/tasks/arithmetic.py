"""Sums of one-digit numbers, worked out in a written chain of steps. Made on the spot, nothing is downloaded.

    prompt      4+7+5=
    completion   4+7=11, 11+5=16 \\boxed{16}

A problem is an operand tuple. Which tuples are held out follows from a hash of the operands alone, so it is the same on every
machine and under every seed, and a smaller ``held_out`` holds out a subset of what a larger one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import overload

from rlvr_core.contracts import Task
from rlvr_core.errors import DataError
from rlvr_core.randomness import seed_of
from rlvr_core.records import Example
from rlvr_core.tasks.options_arithmetic import ArithmeticOptions

Operands = tuple[int, ...]


def is_held_out(operands: Operands, share: float) -> bool:
    """Whether this tuple is among the ``share`` of all tuples that training must not see."""
    return seed_of("arithmetic", "split", *operands) < share * 2**63


def prompt_of(operands: Operands) -> str:
    """The problem as the policy reads it: ``4+7+5=``."""
    return "+".join(map(str, operands)) + "="


def chain_of(operands: Operands, sums: Sequence[int] | None = None) -> str:
    """A worked completion. ``sums``: what each step claims; None: what is right. A step goes on from the claim before it."""
    claimed = list(accumulate(operands))[1:] if sums is None else list(sums)
    starts = [operands[0], *claimed]
    steps = [f"{start}+{term}={claim}" for start, term, claim in zip(starts, operands[1:], claimed, strict=False)]
    return f" {', '.join(steps)} \\boxed{{{claimed[-1]}}}"


class ArithmeticTask(Task):
    """Problems follow from the options alone: no seed, no state, alike on every rank."""

    options: ArithmeticOptions

    def train(self) -> Sequence[Example]:
        """Problems drawn at random, as many as ``train_problems``, none of them held out."""
        return TrainingProblems(self.options)

    def evaluation(self) -> Sequence[Example]:
        """Different held-out problems, spread evenly over the operand counts as far as there are enough of each."""
        wanted = self.options.eval_problems
        problems = list(islice(_held_out(self.options), wanted))
        if len(problems) < wanted:
            raise DataError(
                f"task arithmetic: eval_problems is {wanted}, but only {len(problems)} operand tuples are held out; "
                "lower eval_problems, or raise held_out or max_operands"
            )
        return [_example("eval", index, operands) for index, operands in enumerate(problems)]

    def describe(self) -> str:
        """One line for plan and manifest."""
        o = self.options
        counts = f"{o.min_operands}" if o.min_operands == o.max_operands else f"{o.min_operands} to {o.max_operands}"
        return f"sums of {counts} one-digit numbers: {o.train_problems} training problems, {o.eval_problems} held out"


class TrainingProblems(Sequence[Example]):
    """Training problems, made when asked for."""

    def __init__(self, options: ArithmeticOptions) -> None:
        self._options = options

    def __len__(self) -> int:
        return self._options.train_problems

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        return _example("train", numbers, drawn(numbers, self._options))


def drawn(index: int, options: ArithmeticOptions) -> Operands:
    """The operands of a training problem: the first draw for this index that is not held out."""
    attempt = 0
    while True:
        number = seed_of("arithmetic", "train", index, attempt)
        counts = options.max_operands - options.min_operands + 1
        operands = _digits(number // counts, options.min_operands + number % counts)
        if not is_held_out(operands, options.held_out):
            return operands
        attempt += 1


def _held_out(options: ArithmeticOptions) -> Iterator[Operands]:
    """All held-out tuples, one of each operand count in turn while there are any."""
    walks = [_held_out_of(count, options.held_out) for count in range(options.min_operands, options.max_operands + 1)]
    while walks:
        for walk in list(walks):
            operands = next(walk, None)
            if operands is None:
                walks.remove(walk)
            else:
                yield operands


def _held_out_of(count: int, share: float) -> Iterator[Operands]:
    """The held-out tuples of one length, each once: a stride coprime to 10 visits all tuples in a scattered order."""
    size = 10**count
    stride = size * 618 // 1000 // 10 * 10 + 3
    tuples = (_digits(stride * step % size, count) for step in range(size))
    return (operands for operands in tuples if is_held_out(operands, share))


def _digits(number: int, count: int) -> Operands:
    """The last ``count`` decimal digits of a number."""
    return tuple(number // 10**place % 10 for place in reversed(range(count)))


def _example(split: str, index: int, operands: Operands) -> Example:
    return Example(f"arithmetic/{split}/{index}", prompt_of(operands), str(sum(operands)), {"operands": list(operands)})
