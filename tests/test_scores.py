"""Log-probs and entropies in chunks equal the plain computation, gradients too, for every kind of head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvr_core.policy import scores as module
from rlvr_core.policy.scores import Linear, Scores, has_kernels, score_tokens
from rlvr_core.testing.bench import Bench

TOKENS, WIDTH, VOCABULARY = 13, 6, 11


def inputs(seed: int, bias: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, WIDTH, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    ids = torch.randint(VOCABULARY, (TOKENS,), generator=draw)
    return (
        hidden,
        ids,
        weight,
        torch.randn(VOCABULARY, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() if bias else None,
    )


def plain(hidden: Tensor, ids: Tensor, head: Linear, temperature: float) -> Scores:
    """All logits at once, through autograd."""
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias) * head.scale
    if head.softcap is not None:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    logprobs = torch.log_softmax(logits / temperature, -1)
    return Scores(logprobs.gather(-1, ids[:, None]).squeeze(-1), -(logprobs.exp() * logprobs).sum(-1))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    chunk=st.integers(1, 20),
    temperature=st.sampled_from([1.0, 0.6, 2.0]),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 3.0]),
    scale=st.sampled_from([1.0, 0.3]),
    entropy=st.booleans(),
)
def test_chunks_give_what_all_logits_at_once_give(
    seed: int, chunk: int, temperature: float, bias: bool, softcap: float | None, scale: float, entropy: bool
) -> None:
    hidden, ids, weight, b = inputs(seed, bias)
    head = Linear(weight, b, scale, softcap)
    leaves = [x for x in (hidden, weight, b) if x is not None]
    pull = torch.randn(2, TOKENS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def gradients(scores: Scores) -> list[Tensor]:
        total = (pull[0] * scores.logprobs).sum() + (pull[1] * scores.entropy).sum() * entropy
        return list(torch.autograd.grad(total, leaves, retain_graph=True))

    expected, found = plain(hidden, ids, head, temperature), score_tokens(hidden, ids, head, temperature, chunk, entropy)
    through = score_tokens(hidden, ids, lambda h: plain_logits(h, head), temperature, chunk, entropy)
    for other in (found, through):
        torch.testing.assert_close(other.logprobs, expected.logprobs, atol=1e-12, rtol=1e-12)
        if entropy:
            torch.testing.assert_close(other.entropy, expected.entropy, atol=1e-12, rtol=1e-12)
        for ours, theirs in zip(gradients(other), gradients(expected), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-10)


def plain_logits(hidden: Tensor, head: Linear) -> Tensor:
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias) * head.scale
    return logits if head.softcap is None else torch.tanh(logits / head.softcap) * head.softcap


def test_gradcheck() -> None:
    hidden, ids, weight, bias = inputs(0, bias=True)

    def scores(h: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return tuple(score_tokens(h, ids, Linear(w, b, 0.7, 2.0), 0.8, 5, True))

    assert torch.autograd.gradcheck(scores, (hidden, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_float32_at_least_and_gradients_in_the_dtype_of_the_leaves(dtype: torch.dtype) -> None:
    hidden, ids, weight, _ = inputs(1, bias=False, dtype=dtype)
    scores = score_tokens(hidden, ids, Linear(weight), 1.0, 4, True)
    assert scores.logprobs.dtype == scores.entropy.dtype == torch.float32
    (scores.logprobs.sum() + scores.entropy.sum()).backward()
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad.dtype == weight.grad.dtype == dtype
    expected = plain(hidden.double(), ids, Linear(weight.double()), 1.0)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(scores.logprobs.double(), expected.logprobs, atol=tolerance, rtol=tolerance)


def test_under_autocast_logits_are_computed_in_its_dtype_and_gradients_are_the_leaves() -> None:
    hidden, ids, weight, _ = inputs(2, bias=False, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = score_tokens(hidden, ids, Linear(weight), 1.0, 4, False)
    scores.logprobs.sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32 and scores.logprobs.dtype == torch.float32
    exact = plain(hidden, ids, Linear(weight), 1.0).logprobs
    assert 0 < float((scores.logprobs - exact).abs().max().detach()) < 5e-2


def test_extreme_logits_stay_finite() -> None:
    hidden, ids, weight, _ = inputs(3, bias=False, dtype=torch.float32)
    scores = score_tokens(hidden * 1e4, ids, Linear(weight), 1.0, 4, True)
    (scores.logprobs.sum() + scores.entropy.sum()).backward()
    assert scores.logprobs.isfinite().all() and scores.entropy.isfinite().all()
    assert hidden.grad is not None and hidden.grad.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "dtype", "there"),
    [
        ("cuda", torch.bfloat16, True),
        ("cuda", torch.float16, True),
        ("cuda", torch.float32, True),
        ("cuda", torch.float64, False),
        ("cpu", torch.bfloat16, False),
        ("mps", torch.float32, False),
    ],
)
def test_kernels_are_for_cuda_and_for_what_float32_arithmetic_does_justice(
    kind: str, dtype: torch.dtype, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: {"triton": object()}[name])
    assert has_kernels(kind, dtype) == there
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert not has_kernels(kind, dtype)


def product(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A float32 matrix, two matrices, and what the first is once the product of the others is added."""
    draw = torch.Generator().manual_seed(0)
    total, a, b = (torch.randn(*shape, generator=draw) for shape in ((5, 3), (5, 4), (4, 3)))
    a, b = a.to(dtype), b.to(dtype)
    return total, a, b, total.double() + a.double() @ b.double()


def adds_in_float32(total: Tensor, a: Tensor, b: Tensor, out_dtype: torch.dtype, out: Tensor) -> None:
    """What torch does on CUDA, here."""
    out.copy_(total + a.to(out_dtype) @ b.to(out_dtype))


def refuses(*_: object, **__: object) -> None:
    raise TypeError("addmm() got an unexpected keyword argument 'out_dtype'")


def test_a_product_of_the_same_dtype_is_added_in_place() -> None:
    total, a, b, expected = product(torch.float32)
    module._add_product(total, a, b)
    torch.testing.assert_close(total.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("addmm", [refuses, adds_in_float32])
def test_a_narrow_product_is_added_in_float32_where_torch_can(addmm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module._adds_to_float32.cache_clear()
    monkeypatch.setattr(torch, "addmm", addmm)
    total, a, b, expected = product(torch.bfloat16)
    module._add_product(total, a, b)
    module._adds_to_float32.cache_clear()
    off = float((total - expected).abs().max())
    assert off < 1e-6 if addmm is adds_in_float32 else 1e-6 < off < 5e-2


def test_a_torch_that_adds_wrongly_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    module._adds_to_float32.cache_clear()
    monkeypatch.setattr(torch, "addmm", lambda total, a, b, out_dtype, out: out.copy_(a @ b))
    assert not module._adds_to_float32(torch.device("cpu"), torch.bfloat16)
    module._adds_to_float32.cache_clear()


def test_the_learner_scores_in_chunks_of_its_option_or_its_devices_default() -> None:
    assert Bench.of({"name": "grpo"}).learner.root.numerics.chunk == 1024
    assert Bench.of({"name": "grpo"}, logprob_chunk_tokens=7).learner.root.numerics.chunk == 7
