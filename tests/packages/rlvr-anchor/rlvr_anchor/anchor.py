"""Hidden states held to a reference's, more where the policy was sure."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rlvr_core.contracts import Needs, Regulariser
from rlvr_core.records import Batch, Credited, MicroBatch, Term


class Anchor(Regulariser):
    """coef * sum_t u_t |h_t - h'_t|^2 / D over sum_t u_t, with u_t = weight_t * pi_old(y_t)^sharpness.

    h and h' [B,T,D] are the policy's and the reference's hidden states after the final norm. The sum of u_t is a denominator of its own:
    counted over the whole minibatch and all ranks, so it does not depend on the split.
    """

    def needs(self) -> Needs:
        return Needs(policy=frozenset({"hidden"}), reference=frozenset({"hidden"}), to=self.options.to)

    def sureness(self, old_logprobs: Tensor) -> Tensor:
        """[B,T] log-probs -> [B,T] in [0, 1]."""
        return (old_logprobs * self.options.sharpness).exp()

    def denominators(self, batch: Batch, credit: Credited) -> Mapping[str, Tensor]:
        weights = (credit.weight * self.sureness(batch.logprobs)).where(batch.mask, 0.0)
        return {"sureness": weights.sum(-1)}

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        apart = (batch["hidden"] - batch.references[self.options.to]["hidden"]).square().mean(-1)
        batch.log("anchor/distance", apart)
        weights = batch.weight * self.sureness(batch.old_logprobs)
        return {"anchor": Term(weights * apart, over="sureness", coef=self.options.coef)}
