"""Fakes, and models small enough for tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from rlvr_core.contracts import PolicyHandle, RolloutEngine
from rlvr_core.options import Options
from rlvr_core.randomness import generator
from rlvr_core.records import Completion, Example, Request, Rollout, RowKey, Sampling


def tiny_policy(
    seed: int = 0, dtype: torch.dtype = torch.float64, vocab_size: int = 32, hidden_size: int = 16
) -> PreTrainedModel:
    """A random Qwen2 of two layers, in evaluation mode. Embeddings are untied."""
    config = Qwen2Config(
        vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=2 * hidden_size, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.3, tie_word_embeddings=False,
        eos_token_id=1, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).to(dtype).eval()  # type: ignore[no-any-return,arg-type]


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """The embedded byte-level tokenizer: any text, 257 tokens."""
    from rlvr_core.embedded.tokenizer import embedded_tokenizer

    return embedded_tokenizer()


def scripted_rollouts(
    rewards: Sequence[Sequence[float]],
    lengths: Sequence[Sequence[int]],
    *,
    vocab_size: int = 32,
    seed: int = 0,
    exact: bool = True,
    step: int = 1,
    policy_version: int = 0,
) -> list[Rollout]:
    """Rollouts with these rewards and completion lengths, a list for each prompt; tokens and log-probs made up from ``seed``."""
    rollouts = []
    for prompt, (group, widths) in enumerate(zip(rewards, lengths, strict=True)):
        draw = generator("scripted", seed, step, prompt)
        prompt_ids = tuple(torch.randint(2, vocab_size, (2 + prompt % 3,), generator=draw).tolist())
        for sample, (reward, width) in enumerate(zip(group, widths, strict=True)):
            ids = tuple(torch.randint(2, vocab_size, (width,), generator=draw).tolist())
            logprobs = tuple((-3 * torch.rand(width, generator=draw, dtype=torch.float64)).tolist())
            rollouts.append(
                Rollout(
                    key=RowKey(step, prompt, sample),
                    example=Example(id=str(prompt), prompt=f"p{prompt}", gold=""),
                    prompt_ids=prompt_ids,
                    completion_ids=ids,
                    logprobs=logprobs,
                    finish_reason="stop",
                    exact=exact,
                    policy_version=policy_version,
                    reward=float(reward),
                    group_rewards=tuple(float(r) for r in group),
                )
            )
    return rollouts


class StaleEngineOptions(Options):
    """None."""


class StaleEngine(RolloutEngine):
    """An engine that is inexact and one optimizer step behind: random tokens, made-up log-probs. Everything must survive it."""

    policy: PolicyHandle

    def start(self, policy: PolicyHandle) -> None:
        self.policy = policy

    def policy_version(self) -> int:
        return max(0, self.policy.version - 1)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        return [self._one(request, sampling) for request in requests]

    def _one(self, request: Request, sampling: Sampling) -> Completion:
        draw = generator("stale", sampling.seed, *request.key)
        length = int(torch.randint(1, sampling.max_completion_length + 1, (), generator=draw))
        ids = torch.randint(self.policy.model.config.vocab_size, (length,), generator=draw).tolist()
        logprobs = (-4 * torch.rand(length, generator=draw)).tolist()
        return Completion(request.key, tuple(ids), tuple(logprobs), "length")
