"""What a rollout engine may use of the policy in this process."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlvr_core.learner.learner import Learner
from rlvr_core.policy.root import Numerics


class LocalPolicy:
    """The learner's own weights, for engines that decode in this process. Satisfies ``contracts.PolicyHandle``."""

    def __init__(self, learner: Learner, tokenizer: PreTrainedTokenizerBase) -> None:
        self._learner = learner
        self.tokenizer = tokenizer

    @property
    def model(self) -> PreTrainedModel:
        """The policy's model."""
        return self._learner.root.policy

    @property
    def version(self) -> int:
        """Optimizer steps taken."""
        return self._learner.version

    @property
    def exact(self) -> bool:
        """float32 or wider and no autocast."""
        numerics = self._learner.root.numerics
        return numerics.autocast is None and torch.finfo(self.model.dtype).bits >= 32

    @torch.no_grad()
    def decode(self, **inputs: Any) -> Any:
        """The policy's forward, through the root module."""
        return self._learner.root("decode", **inputs)

    @torch.no_grad()
    def generate(self, **inputs: Any) -> Any:
        """The policy's own ``generate``, through the root module too."""
        return self._learner.root("generate", **inputs)

    def held(self) -> AbstractContextManager[Any]:
        """Autocast from the outside: it keeps its copies of the weights until the outermost context ends."""
        return self._learner.root.numerics.context(self.model.device)


class FixedPolicy:
    """A model that nobody trains, for evaluations outside a run. Satisfies ``contracts.PolicyHandle``."""

    version = 0

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, numerics: Numerics) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._numerics = numerics

    @property
    def exact(self) -> bool:
        """float32 or wider and no autocast."""
        return self._numerics.autocast is None and torch.finfo(self.model.dtype).bits >= 32

    @torch.no_grad()
    def decode(self, **inputs: Any) -> Any:
        """The model's forward, under the same autocast as in training."""
        with self._numerics.context(self.model.device):
            return self.model(**inputs)

    @torch.no_grad()
    def generate(self, **inputs: Any) -> Any:
        """The model's own ``generate``, under the same autocast."""
        with self._numerics.context(self.model.device):
            generate: Any = self.model.generate
            return generate(**inputs)

    def held(self) -> AbstractContextManager[Any]:
        """Autocast from the outside: it keeps its copies of the weights until the outermost context ends."""
        return self._numerics.context(self.model.device)
