"""PPO's parts: generalised advantage estimation, and a critic with its clipped loss."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlvr_core.components.maths import at_last_action, whitened
from rlvr_core.contracts import CreditAssigner, ModelDims, Needs, Regulariser
from rlvr_core.policy.forward import completion_states
from rlvr_core.records import Batch, Credit, MicroBatch, Term


def generalised_advantage(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, skip: bool = True) -> Tensor:
    """[B,T] x 3 -> [B,T] advantages, 0 where no action is.

    delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lam A_{t+1}. Positions between actions are passed over (``skip``), or
    count as steps with reward and value 0. Source: Schulman et al. 2016 (arXiv:1506.02438), eq. 16.
    """
    rewards, values = rewards.where(mask, 0.0), values.where(mask, 0.0)
    advantage = torch.zeros_like(values)
    next_value, running = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        here = rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * running
        counts = mask[:, t] if skip else torch.ones_like(mask[:, t])
        running, next_value = torch.where(counts, here, running), torch.where(counts, values[:, t], next_value)
        advantage[:, t] = here
    return advantage.where(mask, 0.0)


class Gae(CreditAssigner):
    """Advantages from a critic's values; the sequence's reward falls on its last action token."""

    gives = frozenset({"returns"})

    def needs(self) -> Needs:
        return Needs(policy=frozenset({"values"}))

    def credit(self, batch: Batch) -> Credit:
        mask = batch.mask & batch.chosen[:, None]
        values = batch.provided["values"].where(mask, 0.0)
        rewards = at_last_action(batch.rewards, mask) + (0.0 if batch.token_rewards is None else batch.token_rewards)
        o = self.options
        advantage = generalised_advantage(rewards, values, mask, o.gamma, o.lam, o.interior == "skip")
        returns = advantage + values
        residual, spread = (returns - values)[mask].var(unbiased=False), returns[mask].var(unbiased=False)
        metrics = {"ppo/explained_variance": float(1 - residual / spread)} if spread > 0 else {}
        return Credit(whitened(advantage, mask) if self.options.whiten else advantage, returns=returns, metrics=metrics)


class Value(Regulariser):
    """A critic that provides ``values``: V at the state before each completion token, and its loss.

    0.5 max((V - R)^2, (clip(V, V_old +- clip) - R)^2) per token, averaged as the objective's loss is.
    Source: Schulman et al. 2017 (arXiv:1707.06347), section 5, with the clipping of its reference implementation.
    """

    provides = frozenset({"values"})

    def needs(self) -> Needs:
        states = frozenset({"states"}) if self.options.critic == "head" else frozenset()
        return Needs(policy=states | {"values"}, fixed=frozenset({"old_values", "returns"}))

    def learning_rate(self) -> float | None:
        rate: float | None = self.options.learning_rate
        return rate

    def build(self, policy: PreTrainedModel, dims: ModelDims) -> nn.Module:
        self.head = nn.Linear(dims.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if self.options.critic == "head":
            return self.head
        self.decoder = copy.deepcopy(policy.get_decoder())
        return nn.ModuleDict({"decoder": self.decoder, "head": self.head})

    def provide(self, name: str, batch: MicroBatch) -> Tensor:
        if self.options.critic == "model":
            assert batch.rows is not None  # the root module sets them
            states = completion_states(self.decoder, batch.rows)
        else:
            states = batch["states"].detach() if self.options.detach else batch["states"]
        values: Tensor = self.head(states.to(self.head.weight.dtype)).squeeze(-1)
        return values

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        values, old, returns = batch["values"], batch.fixed["old_values"], batch.fixed["returns"]
        error = (values - returns).square()
        if self.options.clip is not None:
            near = old + (values - old).clamp(-self.options.clip, self.options.clip)
            error = torch.maximum(error, (near - returns).square())
        batch.log("ppo/value", values)
        return {"value": Term(0.5 * error, coef=self.options.coef)}
