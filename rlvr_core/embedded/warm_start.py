"""The embedded model: a small Qwen2 that has learned to add from demonstrations in which many steps are wrong.

It knows how (its greedy answers are right) and writes well-formed chains, but sampled steps err as often as the demonstrations did.
That noise is what reinforcement learning then removes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from rlvr_core.embedded.tokenizer import END
from rlvr_core.tasks.arithmetic import Operands, chain_of, is_held_out, prompt_of
from rlvr_core.tasks.options_arithmetic import RESERVED

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True)
class Recipe:
    """Everything the embedded model follows from. A change of any value makes another model."""

    steps: int = 400
    batch_size: int = 128
    learning_rate: float = 3e-3
    warmup: int = 20
    weight_decay: float = 0.01
    wrong: float = 0.35
    """Probability that a demonstrated step is wrong."""
    ramp: int = 300
    slips: tuple[int, ...] = (-2, -1, 1, 2)
    """What a wrong step is off by."""
    operands: tuple[int, ...] = (3, 4)
    """How many numbers a demonstration adds; each batch has one of these."""
    hidden_size: int = 96
    intermediate_size: int = 256
    layers: int = 3
    heads: int = 4
    seed: int = 0


def demonstration(count: int, wrong: float, recipe: Recipe, draw: random.Random) -> tuple[str, str]:
    """Prompt and completion over a tuple that no run holds out, with wrong steps."""
    operands = _operands(count, draw)
    running, sums = operands[0], []
    for term in operands[1:]:
        running += term
        if draw.random() < wrong:
            running += draw.choice([slip for slip in recipe.slips if running + slip >= 0])
        sums.append(running)
    return prompt_of(operands), chain_of(operands, sums)


def _operands(count: int, draw: random.Random) -> Operands:
    while True:
        operands = tuple(draw.randrange(10) for _ in range(count))
        if not is_held_out(operands, RESERVED):
            return operands


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of one operand count: ids [B,S] and labels [B,S], -100 on prompt and padding."""
    draw = random.Random(recipe.seed)
    for step in itertools.count():
        count = draw.choice(recipe.operands)
        wrong = recipe.wrong * min(1.0, step / recipe.ramp)
        pairs = [demonstration(count, wrong, recipe, draw) for _ in range(recipe.batch_size)]
        prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
        rows = tokenizer([prompt + completion + END for prompt, completion in pairs])["input_ids"]
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=-100)
        labels = ids.clone()
        labels[:, : len(prompts[0])] = -100
        yield ids.clamp(min=0), labels


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


def warm_start(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None) -> Qwen2ForCausalLM:
    """Supervised learning on demonstrations; the loss is over completion tokens."""
    model = fresh_model(recipe, tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=recipe.warmup / recipe.steps)
    for step, (ids, labels) in zip(range(recipe.steps), batches(recipe, tokenizer), strict=False):
        logits = model(input_ids=ids).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if progress is not None:
            progress(step + 1, recipe.steps)
    return model.eval()
