"""What n samples of each problem say of k: pass@k, maj@k, and how sure a mean over problems is. Exact where that is possible.

A problem is (n, c): samples drawn, and how many of them are right. Nothing here draws at random but the bootstrap, which is seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb

import numpy as np
import numpy.typing as npt
import torch

from rlvr_core.errors import DataError
from rlvr_core.randomness import generator

RESAMPLES = 2_000
"""Bootstrap samples behind an interval."""
LEVEL = 0.95
"""Share of the bootstrap means that an interval holds."""
_CHUNK = 2**24
"""Numbers of a bootstrap that exist at once."""


@dataclass(frozen=True)
class Interval:
    """A mean over problems, and between what it would lie in most sets of problems like these."""

    mean: float
    low: float
    high: float


def check_k(k: int, n: int) -> None:
    """Raise DataError where fewer samples were drawn than are asked about."""
    if k > n:
        raise DataError(f"k is {k}, but only {n} samples were drawn of a problem: draw more (samples), or ask for a smaller k")
    if k < 1:
        raise DataError(f"k is {k}; it counts samples, so it is at least 1")


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k samples is right, unbiased: 1 - C(n-c,k) / C(n,k).

    Chen et al. 2021, "Evaluating large language models trained on code", equation 1. ``c`` of ``n`` samples are right. Computed in
    whole numbers and rounded once. Raises DataError for k > n, where the estimator does not exist.
    """
    check_k(k, n)
    return float(1 - Fraction(comb(n - c, k), comb(n, k)))


def maj_at_k(right: int, wrong: Sequence[int], silent: int, k: int) -> float:
    """The chance that the answer most often given by k samples is the right one.

    ``right``: samples with the right answer; ``wrong``: samples of each wrong answer; ``silent``: samples that gave no answer, and so
    have no vote (k silent ones are wrong). It is an expectation, over which k of the n samples vote and over who wins a tie (each of
    the first with the same chance), so it needs no random numbers and has no noise of its own. Right within about 1e-12.

    The numbers of votes are hypergeometric: independent binomials given their sum. For each number m of right votes, every other
    answer has at most m, and t of them exactly m, which leaves the right one a chance of 1/(t+1).
    """
    n = right + sum(wrong) + silent
    check_k(k, n)
    p = k / n  # any p gives the same conditional distribution; this one makes the sum k likely, so nothing underflows
    votes = _binomial(right, p)
    won = sum(votes[m] * _undefeated(m, wrong, silent, k - m, p) for m in range(1, min(right, k) + 1) if votes[m] > 0)
    return float(min(1.0, max(0.0, won / _binomial(n, p)[k])))


def _undefeated(m: int, wrong: Sequence[int], silent: int, left: int, p: float) -> float:
    """Weight of the ways in which the others get ``left`` votes in all, none more than m; a tie of t+1 counts 1/(t+1)."""
    large = [size for size in wrong if size >= m]
    others = silent + sum(size for size in wrong if size < m)  # these cannot reach m: they only fill up
    ways = np.zeros((1, left + 1))  # [answers tied at m, votes so far]
    filled = _binomial(others, p)[: left + 1]
    ways[0, : len(filled)] = filled
    for size in large:
        chances = _binomial(size, p)
        below = np.stack([np.convolve(row, chances[:m])[: left + 1] for row in ways])
        longer = np.zeros((len(ways) + 1, left + 1))
        longer[:-1] = below
        if m <= left:
            longer[1:, m:] += ways[:, : left + 1 - m] * chances[m]
        ways = longer[: left // m + 1]
    return float((ways[:, left] / np.arange(1, len(ways) + 1)).sum())


@lru_cache(maxsize=4096)
def _binomial(n: int, p: float) -> npt.NDArray[np.float64]:
    """[n+1] probabilities of 0 to n successes; not to be written to."""
    x = np.arange(n + 1)
    if p >= 1.0:
        return np.asarray(x == n, dtype=np.float64)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    chances: npt.NDArray[np.float64] = np.exp(
        log_factorial[n] - log_factorial[x] - log_factorial[n - x] + x * np.log(p) + (n - x) * np.log1p(-p)
    )
    return chances


def bootstrap(values: Sequence[Sequence[float]]) -> list[Interval]:
    """An interval for the mean of each row of [figures, problems]: the middle 95 % of its means over problems drawn with replacement.

    Efron's percentile bootstrap. All figures see the same draws, which follow from the number of problems alone: the same values give
    the same interval on every machine and after every resume. One problem says nothing of others: its interval is its value.
    """
    table = torch.tensor(values, dtype=torch.float64)
    problems = table.shape[1]
    draw = generator("bootstrap", problems)
    size = max(1, _CHUNK // problems)
    means = []
    for start in range(0, RESAMPLES, size):
        chosen = torch.randint(problems, (min(size, RESAMPLES - start), problems), generator=draw)
        means.append(table[:, chosen].mean(-1))
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(torch.cat(means, dim=1), tails, dim=1)
    return [Interval(*row) for row in zip(table.mean(1).tolist(), low.tolist(), high.tolist(), strict=True)]
