"""pass@k, maj@k and intervals equal what counting every choice of samples gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_core.errors import DataError
from rlvr_core.evaluation.estimators import bootstrap, maj_at_k, pass_at_k


def majority_by_counting(right: int, wrong: Sequence[int], silent: int, k: int) -> Fraction:
    """Every choice of k samples, every winner of a tie alike."""
    samples = ["right"] * right + [f"wrong {i}" for i, size in enumerate(wrong) for _ in range(size)] + [None] * silent
    shares = []
    for chosen in combinations(samples, k):
        votes = Counter(answer for answer in chosen if answer is not None)
        most = max(votes.values(), default=0)
        first = [answer for answer, count in votes.items() if count == most]
        shares.append(Fraction("right" in first, max(1, len(first))))
    return sum(shares, Fraction(0)) / len(shares)


def test_k_above_n_is_an_error_that_names_both() -> None:
    with pytest.raises(DataError, match="k is 32, but only 8 samples"):
        pass_at_k(8, 8, 32)
    with pytest.raises(DataError, match="k is 5, but only 4 samples"):
        maj_at_k(1, [2], 1, 5)


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_choices_with_a_right_sample(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    choices = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, choices)) / len(choices), abs=1e-15)


def test_pass_at_k_is_exact_where_products_of_floats_are_not() -> None:
    """One right of a million, a million less one taken: the one left out is the right one once in a million."""
    assert pass_at_k(10**6, 1, 10**6 - 1) == 1 - 1e-6


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 4), st.lists(st.integers(1, 4), max_size=4), st.integers(0, 2), st.data())
def test_maj_at_k_is_the_mean_over_every_choice_and_every_winner_of_a_tie(
    right: int, wrong: list[int], silent: int, data: st.DataObject
) -> None:
    n = right + sum(wrong) + silent
    if n == 0:
        return
    k = data.draw(st.integers(1, n))
    assert maj_at_k(right, wrong, silent, k) == pytest.approx(float(majority_by_counting(right, wrong, silent, k)), abs=1e-12)


def test_maj_of_all_samples_is_the_plain_vote() -> None:
    assert maj_at_k(3, [2, 2], 9, 16) == 1.0
    assert maj_at_k(3, [3, 3, 1], 0, 10) == pytest.approx(1 / 3)
    assert maj_at_k(2, [3], 0, 5) == 0.0
    assert maj_at_k(0, [], 4, 4) == 0.0


def test_a_vote_over_many_samples_is_quick_and_a_probability() -> None:
    assert 0.9 < maj_at_k(300, [200] + [1] * 500, 24, 512) < 1.0


def test_the_interval_holds_the_mean_and_is_the_same_again() -> None:
    values = [[float(i % 3 == 0) for i in range(200)], [1.0] * 200]
    first, constant = bootstrap(values)
    assert first.low < first.mean < first.high
    assert (constant.low, constant.mean, constant.high) == (1.0, 1.0, 1.0)
    torch.manual_seed(5)
    assert bootstrap(values) == [first, constant]
    assert bootstrap(values[:1]) == [first]  # other figures beside it change nothing


def test_the_interval_is_as_wide_as_theory_says() -> None:
    """For a share of 1/2 over 400 problems, 1.96 standard errors of 0.025 on either side."""
    (found,) = bootstrap([[float(i % 2) for i in range(400)]])
    assert found.high - found.mean == pytest.approx(0.049, abs=0.005)
    assert found.mean - found.low == pytest.approx(0.049, abs=0.005)


def test_one_problem_says_nothing_of_others() -> None:
    (found,) = bootstrap([[0.25]])
    assert (found.low, found.mean, found.high) == (0.25, 0.25, 0.25)
