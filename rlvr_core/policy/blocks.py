"""Compiled code in place of a model's layers. Layers are alike, so one is compiled and serves for all, in seconds where a whole model
takes minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from rlvr_core.errors import ModelError


class CompiledBlocks:
    """A model's layers, compiled for tensors of any shape. Parameters stay where they are."""

    def __init__(self, model: PreTrainedModel) -> None:
        names = set(model._no_split_modules or ())
        layers = [module for module in model.get_decoder().modules() if type(module).__name__ in names]
        if not layers:
            raise ModelError(
                f"{type(model).__name__} does not say what its layers are, so they cannot be compiled; leave learner.compile and "
                "rollout.engine.compile out"
            )
        self.pairs: list[tuple[nn.Module, Callable[..., Any]]] = [
            (layer, torch.compile(layer.forward, dynamic=True)) for layer in layers
        ]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within, the model's layers are the compiled ones: a layer's own attribute comes before its class's method."""
        for layer, compiled in self.pairs:
            vars(layer)["forward"] = compiled
        try:
            # A layer is compiled anew for decoding, for learning, and for forwards without gradient: nothing to give up at.
            with torch._dynamo.config.patch(recompile_limit=64):
                yield
        finally:
            for layer, _ in self.pairs:
                del vars(layer)["forward"]


def used(blocks: CompiledBlocks | None) -> AbstractContextManager[None]:
    """``blocks.used()``, where there are some."""
    return nullcontext() if blocks is None else blocks.used()
