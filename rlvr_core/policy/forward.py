"""The policy's forward: log-probs, entropy and hidden states of completion tokens.

Rows are prompt and completion end to end, padded on the right, so a causal model needs no padding mask. Only completion positions
reach the head: position t-1 scores token t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlvr_core.policy.scores import Linear, score_tokens
from rlvr_core.records import Rollout

POLICY_QUANTITIES = frozenset({"logprobs", "entropy", "hidden", "states"})


@dataclass(frozen=True)
class Rows:
    """Padded rows for one forward. S is the padded length of prompt and completion together."""

    ids: Tensor
    """[B,S] int64."""
    prompt_lengths: Tensor
    """[B] int64."""
    completion_lengths: Tensor
    """[B] int64."""
    width: int
    """T: the longest completion."""

    def positions(self) -> tuple[Tensor, Tensor]:
        """(row, t) of every completion token, row by row: [N] and [N]."""
        t = torch.arange(self.width, device=self.ids.device)
        found = (t[None] < self.completion_lengths[:, None]).nonzero(as_tuple=True)
        return found[0], found[1]


def collate(rollouts: Sequence[Rollout], device: torch.device) -> Rows:
    """Pad rollouts into rows."""
    length = max(r.tokens for r in rollouts)
    ids = torch.zeros(len(rollouts), length, dtype=torch.int64)
    for row, rollout in enumerate(rollouts):
        ids[row, : rollout.tokens] = torch.tensor(rollout.prompt_ids + rollout.completion_ids)
    prompts = torch.tensor([len(r.prompt_ids) for r in rollouts])
    completions = torch.tensor([len(r.completion_ids) for r in rollouts])
    return Rows(ids.to(device), prompts.to(device), completions.to(device), int(completions.max()))


class Head(nn.Module):
    """From final hidden states to logits, as the model itself does it.

    Not a module's owner: the model is kept out of this module's parameters. ``exact`` is False where the model's head is more than we know
    how to repeat (found out by trying); then logits come from the model's own forward, whole.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self._model = [model]
        config = model.config.get_text_config(decoder=True)
        self.softcap = getattr(config, "final_logit_softcapping", None)
        self.scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
        self.exact = self._repeats_the_model()

    def forward(self, hidden: Tensor) -> Tensor:
        """[...,D] -> [...,V]."""
        logits: Tensor = self._model[0].get_output_embeddings()(hidden) * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def linear(self) -> Linear | None:
        """The head as a matrix product, as its parameters are now; None where it is wrapped (by adapters) and so more than that."""
        layer = self._model[0].get_output_embeddings()
        return Linear(layer.weight, layer.bias, self.scale, self.softcap) if type(layer) is nn.Linear else None

    @torch.no_grad()
    def _repeats_the_model(self) -> bool:
        model = self._model[0]
        ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config(decoder=True).vocab_size
        whole = model(input_ids=ids, use_cache=False).logits.float()
        if model.get_output_embeddings() is None or model.get_decoder() is model:
            return False
        ours = self(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state).float()
        tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
        return ours.shape == whole.shape and bool((ours - whole).abs().max() <= tolerance * (1 + whole.abs().max()))


def completion_quantities(
    model: PreTrainedModel, head: Head, rows: Rows, wanted: frozenset[str], temperature: float, chunk: int
) -> dict[str, Tensor]:
    """Compute ``logprobs`` [B,T], ``entropy`` [B,T], ``hidden`` [B,T,D] and ``states`` [B,T,D] of completion tokens; zeros at padding.

    Hidden states are those after the final norm: ``hidden`` at each completion token's own position, ``states`` at the position before,
    where the token was chosen.
    """
    hidden, logits = _run(model, head, rows)
    row, t = rows.positions()
    start = rows.prompt_lengths[row]
    ids = rows.ids[row, start + t]
    shape = (rows.ids.shape[0], rows.width)
    found: dict[str, Tensor] = {}
    if wanted & frozenset({"logprobs", "entropy"}):
        before = start + t - 1
        features = hidden[row, before] if logits is None else logits[row, before]
        apply: Linear | Callable[[Tensor], Tensor] = (head.linear() or head) if logits is None else _same
        scores = score_tokens(features, ids, apply, temperature, chunk, "entropy" in wanted)
        found = {name: _spread(getattr(scores, name), shape, row, t) for name in ("logprobs", "entropy") if name in wanted}
    for name, offset in (("hidden", 0), ("states", -1)):
        if name in wanted:
            found[name] = _spread(hidden[row, start + t + offset], (*shape, hidden.shape[-1]), row, t)
    return found


def completion_states(decoder: nn.Module, rows: Rows) -> Tensor:
    """[B,T,D]: final hidden states of any decoder where each completion token was chosen; zeros at padding."""
    hidden: Tensor = decoder(input_ids=rows.ids, use_cache=False).last_hidden_state
    row, t = rows.positions()
    found = hidden[row, rows.prompt_lengths[row] + t - 1]
    return _spread(found, (rows.ids.shape[0], rows.width, hidden.shape[-1]), row, t)


def _run(model: PreTrainedModel, head: Head, rows: Rows) -> tuple[Tensor, Tensor | None]:
    """Final hidden states [B,S,D], and logits [B,S,V] where only the model itself can make them."""
    inputs: dict[str, Any] = {"input_ids": rows.ids, "use_cache": False}
    if head.exact:
        return model.get_decoder()(**inputs).last_hidden_state, None
    output = model(**inputs, output_hidden_states=True)
    return output.hidden_states[-1], output.logits


def _same(x: Tensor) -> Tensor:
    return x


def _spread(values: Tensor, shape: tuple[int, ...], row: Tensor, t: Tensor) -> Tensor:
    """Token values [N,...] to their places in [B,T,...]."""
    return values.new_zeros(shape).index_put((row, t), values)
