"""The in-process engine: decodes with the policy's own weights.

Rows of one prompt share its prefill. Finished rows leave the key-value cache once they are a fair part of it. Each row is sampled from
a counter-based stream of its own, so its text does not depend on which rows share its batch (but through rounding at a near-tie).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from rlvr_core.contracts import PolicyHandle, RolloutEngine
from rlvr_core.randomness import stream_seeds, uniform
from rlvr_core.records import Completion, Request, Sampling


class TransformersEngine(RolloutEngine):
    """Decodes in this process."""

    policy: PolicyHandle

    def start(self, policy: PolicyHandle) -> None:
        self.policy = policy

    def exact(self) -> bool:
        return self.policy.exact

    def policy_version(self) -> int:
        return self.policy.version

    @torch.no_grad()
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Chunks of at most ``max_rows`` rows, prompts of like length together."""
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), requests[i].prompt_ids, i))
        done: dict[int, Completion] = {}
        for start in range(0, len(order), self.options.max_rows):
            chunk = order[start : start + self.options.max_rows]
            decoded = _Decoding(self.policy, [requests[i] for i in chunk], sampling, self.options.shrink).run()
            done.update(zip(chunk, decoded, strict=True))
        return [done[i] for i in range(len(requests))]


class _Decoding:
    """One batch of rows on its way from prompts to completions. ``alive`` maps rows of the cache to requests."""

    def __init__(self, policy: PolicyHandle, requests: Sequence[Request], sampling: Sampling, shrink: float) -> None:
        self.policy, self.requests, self.sampling, self.shrink = policy, requests, sampling, shrink
        self.device = policy.model.device
        self.ids: list[list[int]] = [[] for _ in requests]
        self.logprobs: list[list[float]] = [[] for _ in requests]
        self.stopped = [False] * len(requests)
        self.alive = list(range(len(requests)))
        self.seeds = stream_seeds([("rollout", sampling.seed, *r.key) for r in requests], self.device)

    def run(self) -> list[Completion]:
        logits, cache, attention, positions = self._prefill()
        finished = torch.zeros(len(self.requests), dtype=torch.bool, device=self.device)
        for step in range(self.sampling.max_completion_length):
            tokens, logprobs = self._sample(logits, step)
            finished = finished | self._record(tokens, logprobs, finished)
            if bool(finished.all()) or step + 1 == self.sampling.max_completion_length:
                break
            if int(finished.sum()) >= self.shrink * len(self.alive):
                keep = (~finished).nonzero().squeeze(-1)
                cache.batch_select_indices(keep)
                tokens, attention, positions, finished = tokens[keep], attention[keep], positions[keep], finished[keep]
                self.alive = [self.alive[i] for i in keep.tolist()]
                self.seeds = self.seeds[keep]
            attention = torch.cat([attention, attention.new_ones(len(attention), 1)], dim=1)
            positions = positions + 1
            logits = self._forward(tokens[:, None], attention, positions, cache)
        return [
            Completion(r.key, tuple(self.ids[i]), tuple(self.logprobs[i]), "stop" if self.stopped[i] else "length")
            for i, r in enumerate(self.requests)
        ]

    def _prefill(self) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
        """Run each distinct prompt once, padded on the left; then one cache row a request."""
        distinct: dict[tuple[int, ...], int] = {}
        owner = torch.tensor([distinct.setdefault(r.prompt_ids, len(distinct)) for r in self.requests], device=self.device)
        width = max(len(prompt) for prompt in distinct)
        ids = torch.zeros(len(distinct), width, dtype=torch.int64)
        attention = torch.zeros(len(distinct), width, dtype=torch.int64)
        for row, prompt in enumerate(distinct):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            attention[row, width - len(prompt) :] = 1
        ids, attention = ids.to(self.device), attention.to(self.device)
        positions = (attention.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.policy.model.config)
        logits = self._forward(ids, attention, positions, cache)
        cache.batch_select_indices(owner)
        return logits[owner], cache, attention[owner], positions[owner, -1:]

    def _forward(self, ids: Tensor, attention: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Logits of the last position, [B,V], float32 at least."""
        output = self.policy.decode(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _sample(self, logits: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """[B,V] -> sampled ids [B] and their log-probs [B], by inverting the distribution function at each row's own number."""
        greedy = self.sampling.temperature == 0
        logprobs = torch.log_softmax(logits if greedy else logits / self.sampling.temperature, dim=-1)
        if greedy:
            tokens = logprobs.argmax(-1)
        else:
            cumulative = logprobs.exp().cumsum(-1)
            drawn = uniform(self.seeds, torch.full_like(self.seeds, step)).to(cumulative.dtype)
            tokens = torch.searchsorted(cumulative, drawn[:, None] * cumulative[:, -1:], right=True).squeeze(-1)
            beyond = tokens == logits.shape[-1]  # the product was rounded up to the whole: the last place may be impossible
            tokens = torch.where(beyond, logprobs.argmax(-1), tokens)
        return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(-1)

    def _record(self, tokens: Tensor, logprobs: Tensor, finished: Tensor) -> Tensor:
        """Write sampled tokens down for rows that go on; [B] bool: rows that ended with this token."""
        ended = [False] * len(self.alive)
        for row, (token, logprob, over) in enumerate(zip(tokens.tolist(), logprobs.tolist(), finished.tolist(), strict=True)):
            if over:
                continue
            request = self.alive[row]
            self.ids[request].append(token)
            self.logprobs[request].append(logprob)
            ended[row] = self.stopped[request] = token in self.sampling.stop_token_ids or self._says_stop(request)
        return torch.tensor(ended, device=self.device)

    def _says_stop(self, request: int) -> bool:
        """Whether the completion holds a stop string by now; looks at the tail that a new token can have changed."""
        if not self.sampling.stop_strings:
            return False
        longest = max(len(stop.encode()) for stop in self.sampling.stop_strings)
        tail = str(self.policy.tokenizer.decode(self.ids[request][-longest - 8 :], skip_special_tokens=False))
        return any(stop in tail for stop in self.sampling.stop_strings)
