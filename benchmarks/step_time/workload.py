"""The work that every trainer is given: a random Qwen2 whose completions end geometrically, prompts, a reward. Runs in any environment."""

from __future__ import annotations

import json
import math
import resource
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PROMPTS, GROUP = 16, 8
VOCABULARY, PAD, END = 8192, 0, 1
MEAN, LIMIT = 80, 512
"""Tokens of a completion: the mean before the cut, and the cut."""
RIGHT = 0.3
"""Share of completions with reward 1."""
LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class Size:
    """A model's shape."""

    hidden: int
    intermediate: int
    layers: int
    heads: int


SIZES = {"9M": Size(256, 704, 6, 4), "0.5B": Size(896, 4864, 24, 14), "tiny": Size(32, 64, 2, 2)}


def write(folder: Path, size: str, steps: int, seed: int) -> None:
    """Model, tokenizer and prompts, where they are not yet."""
    if (folder / "prompts.json").exists():
        return
    model(SIZES[size], seed).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(16, 64, (PROMPTS * steps,), generator=draw).tolist()
    prompts = [" ".join(f"t{i}" for i in torch.randint(2, VOCABULARY, (n,), generator=draw).tolist()) for n in lengths]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"problem": prompt, "answer": "0"}) + "\n" for prompt in prompts))


def model(size: Size, seed: int) -> Qwen2ForCausalLM:
    """Random weights, but for one direction of the hidden states that is the same everywhere, from which the head reads the end's
    probability: 1 / MEAN at every token, so that lengths are geometric."""
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=size.hidden, intermediate_size=size.intermediate, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=False,
        pad_token_id=PAD, eos_token_id=END, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    made = Qwen2ForCausalLM(config)
    with torch.no_grad():
        made.model.embed_tokens.weight[:, 0] = 100.0
        for layer in made.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        made.lm_head.weight[:, 0] = 0
        made.lm_head.weight[END, 0] = math.log((VOCABULARY - 1) / (MEAN - 1)) / math.sqrt(size.hidden)
    made.generation_config.eos_token_id, made.generation_config.pad_token_id = END, PAD
    return made


def tokenizer() -> PreTrainedTokenizerFast:
    """A word for each id."""
    words = {"<pad>": PAD, "<end>": END, **{f"t{i}": i for i in range(2, VOCABULARY)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", padding_side="left")


def reward(text: str) -> float:
    """1 for a share of completions that follows from their text alone."""
    return float(zlib.crc32(text.encode()) % 1000 < 1000 * RIGHT)


def rewards(completions: list[str], **_: Any) -> list[float]:
    """The same with TRL's signature."""
    return [reward(text) for text in completions]


def peak_mb() -> float:
    """This process's peak resident memory, or what it took of the accelerator where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(file: Path, name: str, seconds: list[float], rollout: list[float], tokens: list[int]) -> None:
    """Write what was measured; the first step, in which caches fill, is left out."""
    row = {"name": name, "seconds": seconds[1:], "rollout": rollout[1:], "tokens": tokens[1:], "peak_mb": peak_mb()}
    file.write_text(json.dumps(row))
