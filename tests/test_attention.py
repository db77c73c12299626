"""Attention over pages is attention: the plain computation, the operation, and the kernel (on a GPU, or in Triton's interpreter)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlvr_core.rollout.paged.attention import attend, plain
from rlvr_core.rollout.paged.pages import PAGE

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton asks when it is imported
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="this is it")
def test_the_same_interpreted() -> None:
    """This file once more, by Triton's interpreter on the CPU."""
    around = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "kernel", __file__]
    ended = subprocess.run(command, env=around, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stdout
    assert " passed" in ended.stdout


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="nothing is built")
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("softcap, window, whole", [(None, None, True), (30.0, 4096, False)])
def test_the_kernel_builds_for_a_gpu_that_is_not_there(
    dtype: str, softcap: float | None, window: int | None, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter runs what the compiler refuses."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from rlvr_core.rollout.paged import attention_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    states = dict.fromkeys(("query", "key", "value", "keys", "values", "out"), f"*{dtype}")
    types = {**states, "tables": "*i32", "lengths": "*i64", "partial": "*fp32", "pages_a_row": "i32", "parts": "i32"}
    fixed = {
        "n_group": 7,
        "group_pad": 16,
        "n_width": 64,
        "width_pad": 64,
        "n_depth": 64,
        "depth_pad": 64,
        "n_page": PAGE,
        "whole": whole,
    }
    fixed |= {"scale": 0.125, "softcap": softcap, "window": window}
    signature = {name: types.get(name, "constexpr") for name in attention_kernel._pages.arg_names}
    constants = {(attention_kernel._pages.arg_names.index(name),): value for name, value in fixed.items()}
    built = triton.compile(ASTSource(attention_kernel._pages, signature, constants), target=GPUTarget("cuda", 90, 32))
    assert ("mma" in built.asm["ptx"]) == (dtype == "bf16")  # float32 keeps its precision


Where = tuple[Tensor, Tensor]
"""tables, lengths."""


def random_batch(seed: int, group: int, width: int, depth: int) -> tuple[tuple[Tensor, ...], Where]:
    """Rows of several pages in mixed order; one has nothing yet, and one fills pages up to their end."""
    draw = torch.Generator().manual_seed(seed)
    rows, shared, number = 4, 2, 4
    tables = (1 + torch.randperm(rows * number, generator=draw)).view(rows, number).int()
    lengths = torch.randint(number * PAGE - 1, (rows,), generator=draw)
    lengths[0], lengths[1] = 0, 2 * PAGE

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    pages = 1 + rows * number
    inputs = (
        normal(rows, shared * group, width), normal(rows, shared, width), normal(rows, shared, depth),
        normal(pages, shared, PAGE, width), normal(pages, shared, PAGE, depth),
    )  # fmt: skip
    return inputs, (tables, lengths)


def dense(inputs: Sequence[Tensor], where: Where, scale: float, softcap: float | None, window: int | None) -> Tensor:
    """Row by row, head by head, in float64."""
    query, key, value, keys, values = (x.double() for x in inputs)
    out = torch.zeros(*query.shape[:2], value.shape[-1], dtype=torch.float64)
    group = query.shape[1] // key.shape[1]
    for row, length in enumerate(where[1].tolist()):
        places = [(int(where[0][row, t // PAGE]), t % PAGE) for t in range(length)]
        for head in range(query.shape[1]):
            mine = head // group
            k = torch.stack([*(keys[page, mine, place] for page, place in places), key[row, mine]])
            v = torch.stack([*(values[page, mine, place] for page, place in places), value[row, mine]])
            z = k @ query[row, head] * scale
            z = z if softcap is None else torch.tanh(z / softcap) * softcap
            seen = slice(max(0, length + 1 - window) if window else 0, None)
            out[row, head] = torch.softmax(z[seen], 0) @ v[seen]
    return out


def function(way: str) -> Callable[..., Tensor]:
    if way != "kernel":
        return {"plain": plain, "operation": attend}[way]
    from rlvr_core.rollout.paged import attention_kernel

    return attention_kernel.attend


kernel_runs = pytest.mark.skipif(
    not torch.cuda.is_available() and not INTERPRETED, reason="kernels run on a GPU, or interpreted: test_the_same_interpreted"
)


@pytest.mark.parametrize("way", ["plain", "operation", pytest.param("kernel", marks=kernel_runs)])
@pytest.mark.parametrize("group, width, depth", [(1, 8, 8), (3, 24, 16), (7, 64, 64)])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 1, 70])
def test_attention_over_pages_is_attention(
    way: str, group: int, width: int, depth: int, softcap: float | None, window: int | None
) -> None:
    inputs, where = random_batch(7 * group + width, group, width, depth)
    expected = dense(inputs, where, width**-0.5, softcap, window)
    device = "cuda" if way == "kernel" and torch.cuda.is_available() else "cpu"
    there = [x.to(device) for x in (*inputs, *where)]
    found = function(way)(*there, width**-0.5, softcap, window)
    torch.testing.assert_close(found.cpu().double(), expected, atol=2e-5, rtol=0)
    for row, length in enumerate(where[1].tolist()):  # and the new token is where the next step looks for it
        page = int(where[0][row, length // PAGE])
        for pool, new in ((there[3], inputs[1]), (there[4], inputs[2])):
            assert torch.equal(pool[page, :, length % PAGE].cpu(), new[row])


@kernel_runs
@pytest.mark.parametrize("rows, shared", [(1, 2), (33, 8)])
def test_the_kernel_cuts_few_rows_into_parts_and_many_into_none(rows: int, shared: int) -> None:
    draw = torch.Generator().manual_seed(rows)
    tables = 1 + torch.arange(2 * rows).view(rows, 2).int().flip(0)
    lengths = torch.randint(2 * PAGE - 1, (rows,), generator=draw)
    q, k, v = (torch.randn(rows, shared, 16, generator=draw) for _ in range(3))
    keys, values = (torch.randn(2 * rows + 1, shared, PAGE, 16, generator=draw) for _ in range(2))
    expected = dense((q, k, v, keys, values), (tables, lengths), 0.25, None, None)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = function("kernel")(*(x.to(device) for x in (q, k, v, keys, values, tables, lengths)), 0.25)
    torch.testing.assert_close(found.cpu().double(), expected, atol=2e-5, rtol=0)
