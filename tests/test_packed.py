"""Packed weights change how fast a CPU decodes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_decode import REQUESTS, forced, sampling
from tiny_models import ATTENTION, Handle, engine
from torch import nn

from rlvr_core.rollout import packed
from rlvr_core.rollout.packed import packed_weights, works

needs_packing = pytest.mark.skipif(not works(), reason="this torch does not pack weights")


def replaced(model: nn.Module) -> int:
    return sum("forward" in vars(module) for module in model.modules())


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 24), (7, 24), (2, 3, 5, 24)])
def test_products_are_those_of_the_layer_and_the_layer_is_itself_afterwards(bias: bool, shape: tuple[int, ...]) -> None:
    layer, x = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    expected = layer(x)
    parameters = {name: id(parameter) for name, parameter in layer.named_parameters()}
    with torch.no_grad(), packed_weights(layer):
        assert replaced(layer) == 1
        torch.testing.assert_close(layer(x), expected)
        assert {name: id(parameter) for name, parameter in layer.named_parameters()} == parameters
    assert replaced(layer) == 0
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@needs_packing
def test_each_rollout_packs_the_weights_of_its_time_and_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ATTENTION["llama"]()
    decoder, seen = engine(model), list[int]()
    decode = Handle.decode

    def watched(handle: Handle, **inputs: Any) -> Any:
        seen.append(replaced(handle.model))
        return decode(handle, **inputs)

    monkeypatch.setattr(Handle, "decode", watched)
    for _ in range(2):
        for request, completion in zip(REQUESTS, decoder.generate(REQUESTS, sampling(1.0)), strict=True):
            whole = forced(model, request, completion).gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(completion.logprobs, dtype=torch.float64), whole, atol=1e-4, rtol=0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.2)
    assert set(seen) == {sum(isinstance(module, nn.Linear) for module in model.modules())}
    assert replaced(model) == 0


@pytest.mark.parametrize("case", ["float64", "autocast", "no operations"])
def test_where_there_is_nothing_to_pack_layers_stay_as_they_are(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(4, 4, dtype=torch.float64 if case == "float64" else torch.float32)
    if case == "no operations":
        monkeypatch.setattr(packed, "works", lambda: False)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"), packed_weights(layer):
        assert replaced(layer) == 0


@needs_packing
def test_an_error_while_decoding_takes_the_copies_off() -> None:
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="no"), packed_weights(layer):
        raise ValueError("no")
    assert replaced(layer) == 0


def test_finding_out_draws_no_random_numbers() -> None:
    works.cache_clear()
    state = torch.get_rng_state()
    works()
    assert torch.equal(torch.get_rng_state(), state)
