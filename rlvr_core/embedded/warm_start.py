"""Supervised training of the embedded model: a small Qwen2 that knows how to add and errs when sampled.

Its greedy answers are right, and it writes well-formed chains, but a sampled step errs as often as the demonstrated ones did. That
noise is what reinforcement learning then removes.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from rlvr_core.embedded.demonstrations import demonstration
from rlvr_core.embedded.tokenizer import END

Progress = Callable[[int, int], None]
"""Called after each training step with (steps done, steps in all)."""

IGNORED = -100
"""Label of tokens that are not learned: the prompt and the padding."""

THREADS = 1
"""For a model this small a second thread saves a third of the time on idle cores, and costs tenfold on busy ones."""


@dataclass(frozen=True)
class Recipe:
    """Everything the embedded model follows from. A change of any value makes another model."""

    wrong: float = 0.35
    """Share of demonstrated steps that are wrong, from step ``ramp`` on."""
    ramp: int = 430
    """Over so many steps that share rises from 0: the skill is found sooner where there is less noise."""
    slips: tuple[int, ...] = (-2, -1, 1, 2)
    """What a wrong step is off by."""
    operands: tuple[int, ...] = (3, 4)
    """How many numbers a demonstration adds. A batch holds one of these, so that its rows are about as long."""
    steps: int = 600
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: int = 60
    """Steps over which the learning rate rises; from there it falls to 0 along a cosine."""
    weight_decay: float = 0.01
    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 2
    heads: int = 8
    seed: int = 0

    def wrong_at(self, step: int) -> float:
        """Share of steps that are wrong in the demonstrations of one training step."""
        return self.wrong * min(1.0, step / max(1, self.ramp))


def warm_start(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None) -> Qwen2ForCausalLM:
    """Train a fresh model. Global random state, thread count, default dtype and default device are left as they were."""
    with _own_surroundings(recipe.seed):
        model = fresh_model(recipe, tokenizer)
        model.train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
        )
        schedule = LambdaLR(optimizer, lambda step: rate(step, recipe))
        for step, (ids, labels) in enumerate(itertools.islice(batches(recipe, tokenizer), recipe.steps)):
            completion_loss(model, ids, labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if progress is not None:
                progress(step + 1, recipe.steps)
    model.eval()
    return model


def fresh_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """The model before any training."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=256,
        initializer_range=0.05,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of one operand count each: ids [B,S] and labels [B,S], padded on the right."""
    draw = random.Random(recipe.seed)
    for step in itertools.count():
        count, wrong = draw.choice(recipe.operands), recipe.wrong_at(step)
        pairs = [demonstration(count, wrong, recipe.slips, draw) for _ in range(recipe.batch_size)]
        yield encoded(pairs, tokenizer)


def encoded(pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Ids and labels of prompts, completions and end tokens."""
    texts = tokenizer([prompt + completion + END for prompt, completion in pairs])["input_ids"]
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    labels = pad_sequence([torch.tensor(text) for text in texts], batch_first=True, padding_value=IGNORED)
    ids = labels.clamp(min=0)
    for row, prompt in enumerate(prompts):
        labels[row, : len(prompt)] = IGNORED
    return ids, labels


def completion_loss(model: Qwen2ForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-probability of the completion tokens. Padding is on the right, so a causal model needs no mask."""
    logits = model(input_ids=ids).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def rate(step: int, recipe: Recipe) -> float:
    """The learning rate of a step, as a share of its peak."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))


@contextmanager
def _own_surroundings(seed: int) -> Iterator[None]:
    """A seeded CPU generator, one thread, float32 on the CPU; all put back after."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.enable_grad():
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(THREADS)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)
