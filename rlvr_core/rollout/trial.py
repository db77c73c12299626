"""Whether a way of decoding is right for a model: found out by trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlvr_core.contracts import PolicyHandle
from rlvr_core.records import Request, RowKey, Sampling
from rlvr_core.rollout.rows import Row, rows_of


def trial(policy: PolicyHandle, run: Callable[[Sequence[Row], Sampling], None], lengths: Sequence[tuple[int, int]]) -> str | None:
    """What is wrong with what ``run`` writes for rows of these (prompt, completion) lengths; None: nothing is."""
    try:
        off = disagreement(policy, run, lengths)
    except Exception as error:  # whatever a foreign forward does with a cache it did not make
        return f"its forward failed with a cache of ours ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    if float(off.max()) <= 1e-3 or (not policy.exact and float(off.median()) <= 0.1):
        return None
    return f"its log-probs are off by {float(off.max()):.2g} nats in a batch of changing rows"


@torch.no_grad()
def disagreement(
    policy: PolicyHandle, run: Callable[[Sequence[Row], Sampling], None], lengths: Sequence[tuple[int, int]]
) -> Tensor:
    """[N] how far log-probs of tokens decoded so are from those of a whole forward, in nats."""
    size = policy.model.config.get_text_config(decoder=True).vocab_size
    requests = [Request(RowKey(0, i, 0), tuple((7 * i + j) % size for j in range(p)), c) for i, (p, c) in enumerate(lengths)]
    sampling = Sampling(0.0, max(c for _, c in lengths), (), (), 0)
    rows = rows_of(requests, sampling, None)
    run(rows, sampling)
    return torch.cat([_off(policy, row) for row in rows])


def _off(policy: PolicyHandle, row: Row) -> Tensor:
    ids = torch.tensor([row.sequence], device=policy.model.device)
    logits = policy.decode(input_ids=ids, use_cache=False).logits[0].double()
    start = len(row.request.prompt_ids)
    whole = logits.log_softmax(-1)[start - 1 : -1].gather(-1, ids[0, start:, None]).squeeze(-1)
    off: Tensor = (whole.cpu() - torch.tensor(row.logprobs, dtype=torch.float64)).abs()
    return off
