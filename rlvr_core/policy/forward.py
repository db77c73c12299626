"""The policy's forward: log-probs, entropy and hidden states of completion tokens.

Rows are prompt and completion end to end, padded on the right, so a causal model needs no padding mask; or packed, and kept apart by
their positions. Only completion positions reach the head: position t-1 scores token t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlvr_core.policy.scores import Linear, score_tokens
from rlvr_core.records import Rollout

Integers = npt.NDArray[np.int64]
POLICY_QUANTITIES = frozenset({"logprobs", "entropy", "hidden", "states"})


@dataclass(frozen=True)
class Rows:
    """Prompts with their completions for one forward, padded to one length or put end to end (packed).

    ``ids`` [R,S]: R rows of S tokens; packed, R is 1. Everything else is a row of the micro-batch each, [B].
    """

    ids: Tensor
    """[R,S] int64."""
    prompt_lengths: Tensor
    """[B] int64."""
    completion_lengths: Tensor
    """[B] int64."""
    tokens: Tensor
    """[3,N] int64: (row, t, place in ``ids`` taken end to end) of every completion token, row by row."""
    width: int
    """T: the longest completion."""
    positions: Tensor | None = None
    """[R,S] int64, where rows are packed: they start anew with each row, which tells attention to keep rows apart."""

    def inputs(self) -> dict[str, Any]:
        """What the model's forward is given."""
        packed = {} if self.positions is None else {"position_ids": self.positions}
        return {"input_ids": self.ids, "use_cache": False, **packed}


def collate(rollouts: Sequence[Rollout], device: torch.device, packed: bool = False) -> Rows:
    """Rows for a forward, padded on the right, or packed. Put together on the host, so that nothing waits for the device."""
    prompts = np.array([len(r.prompt_ids) for r in rollouts])
    completions = np.array([len(r.completion_ids) for r in rollouts])
    lengths = prompts + completions
    tokens = np.fromiter(chain.from_iterable(r.prompt_ids + r.completion_ids for r in rollouts), np.int64, lengths.sum())
    if packed:
        ids, starts = tokens[None], lengths.cumsum() - lengths
    else:
        ids, starts = np.zeros((len(rollouts), lengths.max()), np.int64), np.arange(len(rollouts)) * lengths.max()
        ids[np.arange(lengths.max()) < lengths[:, None]] = tokens
    row, t = _counted(completions)
    scored = np.stack([row, t, (starts + prompts)[row] + t])
    positions = _on(_counted(lengths)[1][None], device) if packed else None
    sizes = _on(np.stack([prompts, completions]), device)
    return Rows(_on(ids, device), sizes[0], sizes[1], _on(scored, device), int(completions.max()), positions)


def _counted(lengths: Integers) -> tuple[Integers, Integers]:
    """(row, place in its row) of every token of rows with these lengths, row by row: [N] each."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    return row, np.arange(len(row)) - (lengths.cumsum() - lengths)[row]


def _on(values: Integers, device: torch.device) -> Tensor:
    """On the device."""
    return sent(torch.from_numpy(values), device)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """On the device. To CUDA through pinned memory, so that the host goes on while the device still computes."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


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
    model: PreTrainedModel,
    head: Head,
    rows: Rows,
    wanted: frozenset[str],
    temperature: float,
    chunk: int,
) -> dict[str, Tensor]:
    """Compute ``logprobs`` [B,T], ``entropy`` [B,T], ``hidden`` [B,T,D] and ``states`` [B,T,D] of completion tokens; zeros at padding.

    Hidden states are those after the final norm: ``hidden`` at each completion token's own position, ``states`` at the position before,
    where the token was chosen.
    """
    hidden, logits = _run(model, head, rows)
    row, t, place = rows.tokens
    ids = rows.ids.flatten()[place]
    shape = (len(rows.prompt_lengths), rows.width)
    found: dict[str, Tensor] = {}
    if wanted & frozenset({"logprobs", "entropy"}):
        features = (hidden if logits is None else logits)[place - 1]
        apply: Linear | Callable[[Tensor], Tensor] = (head.linear() or head) if logits is None else _same
        scores = score_tokens(features, ids, apply, temperature, chunk, "entropy" in wanted)
        found = {name: _spread(getattr(scores, name), shape, row, t) for name in ("logprobs", "entropy") if name in wanted}
    for name, offset in (("hidden", 0), ("states", -1)):
        if name in wanted:
            found[name] = _spread(hidden[place + offset], (*shape, hidden.shape[-1]), row, t)
    return found


def completion_states(decoder: nn.Module, rows: Rows) -> Tensor:
    """[B,T,D]: final hidden states of any decoder where each completion token was chosen; zeros at padding."""
    hidden: Tensor = decoder(**rows.inputs()).last_hidden_state.flatten(0, 1)
    row, t, place = rows.tokens
    return _spread(hidden[place - 1], (len(rows.prompt_lengths), rows.width, hidden.shape[-1]), row, t)


@torch.no_grad()
def keeps_rows_apart(model: PreTrainedModel) -> bool:
    """Whether rows put end to end come out as they do alone: found out by trying."""
    size = model.config.get_text_config(decoder=True).vocab_size
    rows = [torch.arange(n, device=model.device) % size for n in (5, 3, 4)]
    ids = torch.cat(rows)[None]
    positions = torch.cat([torch.arange(len(row), device=model.device) for row in rows])[None]
    try:
        together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float()
    except (TypeError, ValueError):  # a model without positions
        return False
    alone = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows]).float()
    tolerance = 1e-4 if torch.finfo(model.dtype).bits >= 32 else 5e-2
    return bool((together - alone).abs().max() <= tolerance * (1 + alone.abs().max()))


def _run(model: PreTrainedModel, head: Head, rows: Rows) -> tuple[Tensor, Tensor | None]:
    """Final hidden states [R*S,D], and logits [R*S,V] where only the model itself can make them."""
    if head.exact:
        return model.get_decoder()(**rows.inputs()).last_hidden_state.flatten(0, 1), None
    output = model(**rows.inputs(), output_hidden_states=True)
    return output.hidden_states[-1].flatten(0, 1), output.logits.flatten(0, 1)


def _same(x: Tensor) -> Tensor:
    return x


def _spread(values: Tensor, shape: tuple[int, ...], row: Tensor, t: Tensor) -> Tensor:
    """Token values [N,...] to their places in [B,T,...]."""
    return values.new_zeros(shape).index_put((row, t), values)
