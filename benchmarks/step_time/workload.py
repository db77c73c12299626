"""The work that every trainer is given: a random Qwen2 whose completions end geometrically, prompts, a reward. Runs in any environment."""

from __future__ import annotations

import json
import math
import resource
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PAD, END = 0, 1
RIGHT = 0.3
"""Share of completions with reward 1."""
LEARNING_RATE = 1e-6
Lengths = list[tuple[int, int]]
"""Tokens of prompt and completion, a row each."""


@dataclass(frozen=True)
class Work:
    """A model's shape, and what is drawn from it in a step."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int = 8192
    prompts: int = 16
    group: int = 8
    mean: int = 80
    """Tokens of a completion before the cut, on average."""
    limit: int = 512
    """The cut."""
    anchor: float = 100.0
    """The embeddings' first number, so large beside what layers add (random, more of it in a larger model) that the end stays as likely."""

    @property
    def rollouts(self) -> int:
        """Completions of a step."""
        return self.prompts * self.group

    @property
    def shape(self) -> tuple[int, int, int, int, int, int]:
        """Vocabulary, hidden, intermediate, layers, heads, key-value heads."""
        return self.vocabulary, self.hidden, self.intermediate, self.layers, self.heads, 2


WORKS = {
    "9M": Work(256, 704, 6, 4),
    "0.5B": Work(896, 4864, 24, 14, vocabulary=151936, prompts=32, group=16, mean=128, anchor=1000.0),
    "tiny": Work(32, 64, 2, 2, vocabulary=256, prompts=2, group=4, mean=4, limit=8),
}


def write(folder: Path, work: Work, steps: int, seed: int, device: str) -> None:
    """The work, its model, tokenizer and prompts."""
    with torch.device(device):
        made = model(work, seed)
    made.save_pretrained(folder / "model")
    tokenizer(work.vocabulary).save_pretrained(folder / "model")
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(16, 64, (work.prompts * steps,), generator=draw).tolist()
    prompts = [" ".join(f"t{i}" for i in torch.randint(2, work.vocabulary, (n,), generator=draw).tolist()) for n in lengths]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"problem": prompt, "answer": "0"}) + "\n" for prompt in prompts))
    (folder / "work.json").write_text(json.dumps(asdict(work)))


def read(folder: Path) -> Work:
    """The work of a folder."""
    return Work(**json.loads((folder / "work.json").read_text()))


def model(work: Work, seed: int) -> Qwen2ForCausalLM:
    """Random weights, but for one direction of the hidden states that is the same everywhere, from which the head reads the end's
    probability: 1 / mean at every token, so that lengths are geometric."""
    config = Qwen2Config(
        vocab_size=work.vocabulary, hidden_size=work.hidden, intermediate_size=work.intermediate, num_hidden_layers=work.layers,
        num_attention_heads=work.heads, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=False,
        pad_token_id=PAD, eos_token_id=END, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    made = Qwen2ForCausalLM(config)
    with torch.no_grad():
        made.model.embed_tokens.weight[:, 0] = work.anchor
        for layer in made.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        made.lm_head.weight[:, 0] = 0
        made.lm_head.weight[END, 0] = math.log((work.vocabulary - 1) / (work.mean - 1)) / math.sqrt(work.hidden)
    made.generation_config.eos_token_id, made.generation_config.pad_token_id = END, PAD
    return made


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word for each id."""
    words = {"<pad>": PAD, "<end>": END, **{f"t{i}": i for i in range(2, vocabulary)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", padding_side="left")


def reward(text: str) -> float:
    """1 for a share of completions that follows from their text alone."""
    return float(zlib.crc32(text.encode()) % 1000 < 1000 * RIGHT)


def rewards(completions: list[str], **_: Any) -> list[float]:
    """The same with TRL's signature."""
    return [reward(text) for text in completions]


def wait(device: str) -> None:
    """Until the accelerator has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def peak_mb(device: str) -> float:
    """This process's peak resident memory, or what it took of the accelerator where that is used."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(
    file: Path, name: str, device: str, seconds: list[float], rollout: list[float], drawn: list[Lengths], learned: list[Lengths],
    stages: dict[str, list[float]] | None = None,
) -> None:  # fmt: skip
    """Write what was measured; the first step, in which caches fill, is left out. ``learned``: those of ``drawn`` that had a gradient;
    ``stages``: seconds of each step's parts, the first step's too."""
    row = {"name": name, "seconds": seconds[1:], "rollout": rollout[1:], "drawn": drawn[1:], "learned": learned[1:]}
    file.write_text(json.dumps({**row, "peak_mb": peak_mb(device), "stages": stages or {}}))
