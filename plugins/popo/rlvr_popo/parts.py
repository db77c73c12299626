"""POPO's parts. S+(x): the rollouts of prompt x whose reward is above the threshold; nothing else is used."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlvr_core.components.maths import kl_estimate, masked_mean
from rlvr_core.contracts import CreditAssigner, Loss, ModelDims, Needs, Regulariser, Sampler
from rlvr_core.records import Batch, Credit, MicroBatch, Rollout, Selection, Term


class PositiveOnly(Sampler):
    """Keeps S+(x). An empty completion is never a positive."""

    def select(self, scored: Sequence[Rollout], round: int) -> Selection:
        kept = [r for r in scored if r.reward > self.options.threshold and r.completion_ids]
        groups = {r.key.group for r in scored}
        without = len(groups) - len({r.key.group for r in kept})
        return Selection(
            kept, metrics={"popo/positive_ratio": len(kept) / len(scored), "popo/groups_without_positive": without / len(groups)}
        )


def positive_weights(logprobs: Tensor, mask: Tensor, weights: str, temperature: float, length_normalize: bool) -> Tensor:
    """[n,T] log-probs of one prompt's positives and their mask -> [n] weights in (0, 1] that sum to 1.

    softmax of score / temperature, where the score is the mean (``softmax``) or the sum (``sequence_softmax``) of a completion's token
    log-probs; ``uniform``: 1/n. ``length_normalize`` divides by the length and normalises again.
    """
    lengths = mask.sum(-1).clamp(min=1)
    if weights == "uniform":
        found = torch.full_like(logprobs[:, 0], 1 / len(logprobs))
    else:
        scores = masked_mean(logprobs, mask)
        if weights == "sequence_softmax":
            scores = scores * lengths
        found = torch.softmax(scores / temperature, dim=0)
    if length_normalize:
        found = found / lengths
        found = found / found.sum()
    return found


class BoundedIsCredit(CreditAssigner):
    """w(y|x) over S+(x) from the log-probs of the policy about to be updated, without gradient. Advantage 1, weight w.

    Under several iterations over a batch the weights stay those of its start.
    """

    def credit(self, batch: Batch) -> Credit:
        o = self.options
        weight = torch.zeros_like(batch.rewards)
        entropies = []
        for group in batch.groups:
            rows = group.rows
            w = positive_weights(batch.logprobs[rows], batch.mask[rows], o.weights, o.temperature, o.length_normalize)
            weight[rows] = w
            entropies.append(float(torch.special.entr(w).sum()))
        metrics = {"popo/weight_entropy": sum(entropies) / len(entropies)} if entropies else {}
        return Credit(torch.ones_like(weight), weight, metrics=metrics)


class BoundedIsLoss(Loss):
    """w(y) * -log pi(y_t | x, y_<t) per token."""

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        push = batch.advantage * batch.weight * batch.importance
        return {"nll": Term(-push * batch["logprobs"], over=self.options.over)}


class Predictor(nn.Module):
    """[Linear, LayerNorm, ReLU] for each hidden layer, then Linear, through these sizes: Xavier weights, zero biases."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for inside, outside in itertools.pairwise(sizes[:-1]):
            stack += [nn.Linear(inside, outside), nn.LayerNorm(outside), nn.ReLU()]
        self.net = nn.Sequential(*stack, nn.Linear(sizes[-2], sizes[-1]))
        for module in self.net:
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """[B,D] -> [B,D]."""
        out: Tensor = self.net(features)
        return out


class Similarity(Regulariser):
    """-w(y) cos(h(z), z' + eps): z pools the policy's final hidden states over completion tokens, z' the reference's, without gradient.

    h, the predictor, is on the policy's branch only. eps ~ N(0, noise^2), in training.
    """

    def needs(self) -> Needs:
        wanted = frozenset({"hidden", "logprobs"} if self.options.monitor_kl else {"hidden"})
        return Needs(policy=wanted, reference=wanted, to=self.options.to)

    def build(self, policy: PreTrainedModel, dims: ModelDims) -> nn.Module:
        hidden = [self.options.predictor_hidden] * (self.options.predictor_layers - 1)
        return self.predictor_of(Predictor(dims.hidden_size, *hidden, dims.hidden_size))

    def module_like(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """A predictor with the sizes of these weights."""
        matrices = [weight for weight in weights.values() if weight.dim() == 2]
        return Predictor(matrices[0].shape[1], *(weight.shape[0] for weight in matrices))

    def predictor_of(self, module: nn.Module) -> nn.Module:
        """Use this predictor h; the identity where features are predicted already."""
        self.predictor = module
        return module

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        hidden, reference = batch["hidden"], batch.references[self.options.to]
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        predicted = self.predictor(pooled(hidden, batch.mask, dtype))
        target = pooled(reference["hidden"], batch.mask, predicted.dtype)
        if self.options.noise and batch.normal is not None:
            target = target + batch.normal("similarity", target.shape[-1], self.options.noise)
        cosine = F.cosine_similarity(predicted, target, dim=-1)
        batch.log("popo/cosine", cosine)
        if self.options.monitor_kl and "logprobs" in reference:  # there in training; features alone have none
            batch.log("popo/kl_twin", kl_estimate(batch["logprobs"].detach(), reference["logprobs"], "k3"))
        return {"similarity": Term(-batch.row_weight * cosine, over="weight", coef=self.options.coef)}


def pooled(hidden: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[B,T,D] -> [B,D]: mean over completion tokens."""
    kept = torch.where(mask[..., None], hidden.to(dtype), torch.zeros((), dtype=dtype, device=hidden.device))
    return kept.sum(1) / mask.sum(-1, keepdim=True).clamp(min=1)
