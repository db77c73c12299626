"""The kernels give what the plain computation gives in float64; on a GPU, or anywhere in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_growth import Made
from torch import Tensor

from rlvr_core.policy import scores
from rlvr_core.policy.scores import Curve, Linear, Scores, score_tokens

triton = pytest.importorskip("triton", reason="Triton is not installed")
from rlvr_core.policy import score_kernels  # noqa: E402  # it imports Triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton asks when it is imported
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
on_cuda = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
on_cuda_or_interpreted = pytest.mark.skipif(
    DEVICE.type != "cuda" and not INTERPRETED, reason="kernels run on a GPU, or interpreted: test_the_same_interpreted"
)
beyond_the_end = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
"""The interpreter computes lanes beyond a row's end, which are never stored, and may say that they overflow."""
AT_ONCE = [Phase.explicit, Phase.reuse, Phase.generate]
"""A failure is told as it is: shrinking it takes the interpreter minutes."""
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Relative, of a gradient that is rounded to the dtype once; twice half a unit in the last place."""


@pytest.mark.skipif(INTERPRETED, reason="this is it")
def test_the_same_interpreted() -> None:
    """This file once more, by Triton's interpreter on the CPU."""
    around = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    ended = subprocess.run(command, env=around, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stdout
    assert " passed" in ended.stdout


@pytest.fixture(autouse=True)
def kernels_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """On whatever device the tests run; with blocks that small vocabularies fill several of."""
    monkeypatch.setattr(scores, "has_kernels", lambda kind, dtype: True)
    monkeypatch.setattr(score_kernels, "BLOCK", 32)


def curved(raw: Tensor, curve: Curve) -> Tensor:
    z = raw * curve.scale
    return (z if curve.softcap is None else torch.tanh(z / curve.softcap) * curve.softcap) / curve.temperature


def scores_of(z: Tensor, ids: Tensor) -> Scores:
    logprobs = torch.log_softmax(z, -1)
    return Scores(logprobs.gather(-1, ids[:, None]).squeeze(-1), -(logprobs.exp() * logprobs).sum(-1))


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    pick = st.sampled_from
    return Curve(draw(pick([1.0, 0.3, -0.5])), draw(pick([None, 3.0, 30.0])), draw(pick([1.0, 0.6, 2.0])))


@on_cuda_or_interpreted
@beyond_the_end
@settings(deadline=None, max_examples=50, phases=AT_ONCE)
@given(
    seed=st.integers(0, 1000),
    tokens=st.integers(1, 5),
    vocabulary=st.sampled_from([1, 2, 31, 32, 33, 64, 80, 100]),  # each is built anew
    size=st.sampled_from([0.1, 3.0, 30.0]),
    curve=curves(),
    entropy=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_the_passes_give_what_autograd_gives_in_float64(
    seed: int, tokens: int, vocabulary: int, size: float, curve: Curve, entropy: bool, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(seed)
    raw = (size * torch.randn(tokens, vocabulary, generator=draw)).to(DEVICE, dtype)
    ids = torch.randint(vocabulary, (tokens,), generator=draw).to(DEVICE)
    ids[0] = vocabulary - 1
    g, k = torch.randn(2, tokens, generator=draw).to(DEVICE)
    exact = raw.double().requires_grad_()
    z = curved(exact, curve)
    expected = scores_of(z, ids)
    ((g * expected.logprobs).sum() + (k * expected.entropy).sum() * entropy).backward()

    chosen, normalisers, means = score_kernels.statistics(raw, ids, curve, entropy)
    torch.testing.assert_close(chosen.double(), z.gather(-1, ids[:, None]).squeeze(-1).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normalisers.double(), z.logsumexp(-1).detach(), atol=1e-5, rtol=1e-5)
    means_expected = z.logsumexp(-1) - expected.entropy if entropy else torch.zeros_like(expected.entropy)
    torch.testing.assert_close(means.double(), means_expected.detach(), atol=1e-5, rtol=1e-5)

    found = score_kernels.gradient(raw, ids, normalisers, means, g, k, curve, entropy)
    assert found.data_ptr() == raw.data_ptr()
    assert found.dtype == dtype
    assert exact.grad is not None
    torch.testing.assert_close(found.double(), exact.grad, atol=1e-5 * max(1.0, size), rtol=TOLERANCE[dtype])


@on_cuda_or_interpreted
@beyond_the_end
@settings(deadline=None, max_examples=20, phases=AT_ONCE)
@given(
    seed=st.integers(0, 1000),
    chunk=st.integers(1, 8),
    curve=curves(),
    bias=st.booleans(),
    entropy=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_through_a_head_they_give_what_the_plain_way_gives(
    seed: int, chunk: int, curve: Curve, bias: bool, entropy: bool, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(DEVICE, dtype).requires_grad_()

    hidden, weight, ids = leaf(7, 6), leaf(77, 6), torch.randint(77, (7,), generator=draw).to(DEVICE)
    b = leaf(77) if bias else None
    leaves = [x for x in (hidden, weight, b) if x is not None]
    pull = torch.randn(7, generator=draw).to(DEVICE)

    def run() -> tuple[Scores, tuple[Tensor, ...]]:
        found = score_tokens(hidden, ids, Linear(weight, b, curve.scale, curve.softcap), curve.temperature, chunk, entropy)
        # A sum's gradient is one number in memory, spread with stride 0.
        return found, torch.autograd.grad((pull * found.logprobs).sum() + found.entropy.sum() * entropy, leaves)

    found, gradients = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "has_kernels", lambda kind, dtype: False)
        expected, gradients_expected = run()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients, gradients_expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE[dtype] * float(theirs.abs().max()), rtol=2 * TOLERANCE[dtype])


@on_cuda_or_interpreted
def test_blocks_as_large_as_they_are_fill_with_a_large_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    vocabulary, curve = 2 * score_kernels.BLOCK + 9, Curve(1.0, 30.0, 0.7)
    raw = torch.randn(2, vocabulary, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    ids = torch.tensor([score_kernels.BLOCK, vocabulary - 1], device=DEVICE)
    exact = raw.double().requires_grad_()
    expected = scores_of(curved(exact, curve), ids)
    (expected.logprobs.sum() + expected.entropy.sum()).backward()
    chosen, normalisers, means = score_kernels.statistics(raw, ids, curve, True)
    torch.testing.assert_close((chosen - normalisers).double(), expected.logprobs.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((normalisers - means).double(), expected.entropy.detach(), atol=1e-5, rtol=1e-5)
    ones = torch.ones(2, device=DEVICE)
    found = score_kernels.gradient(raw, ids, normalisers, means, ones, ones, curve, True)
    assert exact.grad is not None
    torch.testing.assert_close(found.double(), exact.grad, atol=1e-8, rtol=1e-4)


@on_cuda_or_interpreted
def test_a_vocabulary_that_begins_with_forbidden_tokens_is_one_without_them() -> None:
    raw = torch.randn(3, 80, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    raw[:, :40] = -torch.inf
    ids = torch.tensor([40, 60, 79], device=DEVICE)
    chosen, normalisers, _ = score_kernels.statistics(raw, ids, Curve(1.0, None, 1.0), False)
    torch.testing.assert_close(chosen - normalisers, scores_of(raw[:, 40:], ids - 40).logprobs)


@on_cuda_or_interpreted
@pytest.mark.parametrize("place", [0, 79])
def test_a_number_that_is_none_is_not_hidden(place: int) -> None:
    raw = torch.zeros(1, 80, device=DEVICE)
    raw[0, place] = torch.nan
    _, normalisers, means = score_kernels.statistics(
        raw, torch.zeros(1, dtype=torch.int64, device=DEVICE), Curve(1.0, None, 1.0), True
    )
    assert normalisers.isnan().all() and means.isnan().all()


@on_cuda_or_interpreted
def test_one_chunk_of_logits_is_there_at_a_time_in_the_dtype_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    chunk, vocabulary = 32, 1000
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, 2, generator=draw).to(DEVICE, torch.bfloat16).requires_grad_()
    hidden = torch.randn(2 * chunk, 2, generator=draw).to(DEVICE, torch.bfloat16).requires_grad_()
    ids = torch.arange(2 * chunk, device=DEVICE)
    score_tokens(hidden[:1], ids[:1], Linear(weight), 0.7, chunk, True)  # a trial may come before the first
    monkeypatch.setattr(score_kernels, "BLOCK", 1024)
    with Made() as made:
        found = score_tokens(hidden, ids, Linear(weight, None, 1.0, 30.0), 0.7, chunk, True)
        (found.logprobs.sum() + found.entropy.sum()).backward()
    assert 1 <= made.peak / (2 * chunk * vocabulary) < 1.5


@pytest.mark.skipif(INTERPRETED, reason="nothing is built")
@pytest.mark.parametrize("name", ["_statistics", "_gradient"])
@pytest.mark.parametrize("options", [False, True])
def test_kernels_build_for_a_gpu_that_is_not_there(
    name: str, options: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter runs what the compiler refuses."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(score_kernels, name)
    constants = {"vocabulary": 151_936, "capped": options, "entropy": options, "block": 4096}
    types = {"raw": "*bf16", "ids": "*i64", "inner": "fp32", "outer": "fp32"}
    signature = {
        argument: "constexpr" if argument in constants else types.get(argument, "*fp32") for argument in kernel.arg_names
    }
    built = triton.compile(
        ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32), options=dict(score_kernels.HOW)
    )
    assert built.asm["cubin"]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes it")
def test_where_kernels_do_not_run_there_is_a_warning_and_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    scores._kernels.cache_clear()
    with pytest.warns(RuntimeWarning, match="no Triton kernels for log-probs, which take longer without: "):
        assert scores._passes(torch.device("cpu"), torch.float32) == (scores._statistics, scores._gradient)
    scores._kernels.cache_clear()


@on_cuda
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_a_large_vocabulary_in_bfloat16_equals_the_plain_way(
    bias: bool, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    tokens, vocabulary, width = 600, 151_936, 256
    draw = torch.Generator(DEVICE).manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=DEVICE).to(torch.bfloat16).requires_grad_()

    hidden, weight, b = leaf(tokens, width), leaf(vocabulary, width), leaf(vocabulary) if bias else None
    ids = torch.randint(vocabulary, (tokens,), generator=draw, device=DEVICE)
    leaves = [x for x in (hidden, weight, b) if x is not None]
    pull = torch.randn(2, tokens, generator=draw, device=DEVICE)

    def run() -> tuple[Scores, tuple[Tensor, ...]]:
        found = score_tokens(hidden, ids, Linear(weight, b, 0.1, softcap), 0.9, 256, True)
        return found, torch.autograd.grad((pull[0] * found.logprobs).sum() + (pull[1] * found.entropy).sum(), leaves)

    assert scores._passes(DEVICE, torch.bfloat16)[0] is score_kernels.statistics
    found, gradients = run()
    monkeypatch.setattr(scores, "has_kernels", lambda kind, dtype: False)
    expected, gradients_expected = run()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    for ours, theirs in zip(gradients, gradients_expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=4e-3 * float(theirs.abs().max()), rtol=2e-2)


@on_cuda
def test_rows_beyond_two_to_the_31_logits_are_found() -> None:
    vocabulary, curve = 151_936, Curve(1.0, None, 1.0)
    tokens = 2**31 // vocabulary + 3
    raw = torch.empty(tokens, vocabulary, dtype=torch.bfloat16, device=DEVICE).normal_()
    ids = torch.arange(tokens, device=DEVICE)
    few = raw[-2:].clone()
    whole = score_kernels.statistics(raw, ids, curve, True)
    part = score_kernels.statistics(few, ids[-2:], curve, True)
    for ours, theirs in zip(whole, part, strict=True):
        assert torch.equal(ours[-2:], theirs)
    ones = torch.ones(tokens, device=DEVICE)
    score_kernels.gradient(raw, ids, *whole[1:], ones, ones, curve, True)
    assert torch.equal(raw[-2:], score_kernels.gradient(few, ids[-2:], *part[1:], ones[-2:], ones[-2:], curve, True))


@on_cuda
@pytest.mark.skipif(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10), reason="torch does so since 2.10")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_narrow_product_is_added_to_a_float32_matrix_in_place(dtype: torch.dtype) -> None:
    assert scores._adds_to_float32(DEVICE, dtype)
    draw = torch.Generator(DEVICE).manual_seed(0)
    total = torch.zeros(151_936, 256, device=DEVICE)
    a, b = (torch.randn(300, size, generator=draw, device=DEVICE).to(dtype) for size in total.shape)
    scores._add_product(total, a.T, b)  # cuBLAS keeps what it allocates at first
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    scores._add_product(total, a.T, b)
    assert torch.cuda.max_memory_allocated() - before < total.nbytes * 0.4
    torch.testing.assert_close(total.double(), 2 * a.T.double() @ b.double(), atol=1e-3, rtol=1e-5)
