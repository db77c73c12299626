"""Useful tokens a second against the spread of completion lengths: this engine, a bare loop, and ``generate``.

    .venv/bin/python benchmarks/rollout_tail/run.py

A random Qwen2 samples 16 prompts (16 to 63 tokens long) x 8 completions of a given mean length, at four spreads: from all of one length
(no end token, cut at the mean) to geometric lengths cut at 2, 4 and 8 times their mean. A token is useful that its row's completion holds;
what is computed for rows that have ended, or for padding, is not. The three take turns in one process; the table holds medians of rounds,
and ratios of these. On a machine with other work, one thread and `--clock cpu` leave that out of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from rlvr_core.components.options import TransformersEngineOptions
from rlvr_core.records import Request, RowKey, Sampling
from rlvr_core.rollout.transformers_engine import TransformersEngine

PAD = 0


@dataclass(frozen=True)
class Work:
    """What is to be decoded: ``ends`` are the end tokens, ``limit`` the longest completion."""

    model: PreTrainedModel
    prompts: list[tuple[int, ...]]
    group: int
    ends: tuple[int, ...]
    limit: int

    def padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[B,S] ids padded on the left and their mask, a row each completion."""
        width = max(len(prompt) for prompt in self.prompts)
        ids = torch.tensor([[PAD] * (width - len(prompt)) + list(prompt) for prompt in self.prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in self.prompts])
        device = self.model.device
        return ids.repeat_interleave(self.group, 0).to(device), mask.repeat_interleave(self.group, 0).to(device)


class Handle:
    """The policy handle that the engine asks for."""

    version, exact, tokenizer = 0, True, None

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def held(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @torch.no_grad()
    def decode(self, **inputs: Any) -> Any:
        return self.model(**inputs)


def random_qwen2(size: str, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """8.5 M parameters for a CPU, 0.5 B for an accelerator. Random weights: every token is about as likely as any other."""
    shape = {
        "8M": {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 1152, "num_hidden_layers": 4, "num_attention_heads": 4},
        "0.5B": {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    }[size]  # fmt: skip
    torch.manual_seed(0)
    config = Qwen2Config(
        **shape, num_key_value_heads=2, max_position_embeddings=8192, tie_word_embeddings=False, pad_token_id=PAD, eos_token_id=1
    )
    return Qwen2ForCausalLM(config).to(device, dtype).eval()


def ours(work: Work, seed: int) -> int:
    """Tokens decoded by the engine."""
    engine = TransformersEngine(TransformersEngineOptions())
    engine.start(Handle(work.model))
    requests = [Request(RowKey(1, p, s), ids) for p, ids in enumerate(work.prompts) for s in range(work.group)]
    return sum(len(c.ids) for c in engine.generate(requests, Sampling(1.0, work.limit, work.ends, (), seed)))


@torch.no_grad()
def bare(work: Work, seed: int) -> int:
    """Tokens decoded by a plain loop over the model that drops ended rows from the cache once they are an eighth of it."""
    torch.manual_seed(seed)
    ids, mask = work.padded()
    ends, cache = torch.tensor(work.ends, device=ids.device), DynamicCache(config=work.model.config)
    positions, useful = (mask.cumsum(-1) - 1).clamp(min=0), 0
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for step in range(work.limit):
        output = work.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        logprobs = torch.log_softmax(output.logits[:, -1].float(), -1)
        ids, positions = torch.multinomial(logprobs.exp(), 1), positions[:, -1:] + 1
        logprobs.gather(-1, ids)
        useful += int((~ended).sum())
        ended |= torch.isin(ids[:, 0], ends)
        if ended.all() or step + 1 == work.limit:
            break
        if int(ended.sum()) * 8 >= len(ended):
            keep = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            ids, mask, positions, ended = ids[keep], mask[keep], positions[keep], ended[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return useful


def generate(work: Work, seed: int) -> int:
    """Tokens decoded by the model's own ``generate``, log-probs not counted: it does not give them."""
    torch.manual_seed(seed)
    ids, mask = work.padded()
    found = work.model.generate(  # type: ignore[operator]
        ids,
        attention_mask=mask,
        do_sample=True,
        top_k=0,
        max_new_tokens=work.limit,
        eos_token_id=list(work.ends) or None,
        pad_token_id=PAD,
    )[:, ids.shape[1] :]
    over = torch.isin(found, torch.tensor(work.ends, device=found.device))
    lengths = torch.where(over.any(-1), over.int().argmax(-1) + 1, found.shape[1])
    return int(lengths.sum())


def rates(work: Work, ways: list[Callable[[Work, int], int]], rounds: int, clock: Callable[[], float]) -> list[float]:
    """Useful tokens a second of each way: the median of ``rounds`` rounds in which they take turns."""
    found: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds):
        for way, rate in zip(ways, found, strict=True):
            start = clock()
            tokens = way(work, turn)
            if work.model.device.type == "cuda":
                torch.cuda.synchronize()
            rate.append(tokens / (clock() - start))
    return [statistics.median(rate) for rate in found]


def main() -> None:
    """Print a row for each spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mean", type=int, default=32, help="mean completion length, before it is cut")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: seconds that this process computed")
    arguments = parser.parse_args()
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    gpu = arguments.device != "cpu"
    model = random_qwen2("0.5B" if gpu else "8M", arguments.device, torch.bfloat16 if gpu else torch.float32)
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(16, 64, (16,), generator=draw).tolist()
    prompts = [tuple(torch.randint(2, 4096, (length,), generator=draw).tolist()) for length in lengths]
    size = model.config.vocab_size
    rates(Work(model, prompts[:2], 2, (), 4), [ours, bare, generate], 1, clock)  # whatever is done once
    print("| completion lengths | ours / generate | ours / bare loop | useful tokens/s |\n| --- | --- | --- | --- |", flush=True)
    for spread in (1, 2, 4, 8):
        ends = () if spread == 1 else tuple(range(size - size // arguments.mean, size))
        work = Work(model, prompts, 8, ends, spread * arguments.mean)
        mine, plain, theirs = rates(work, [ours, bare, generate], arguments.rounds, clock)
        name = f"all {work.limit}" if spread == 1 else f"geometric, mean {arguments.mean}, cut at {work.limit}"
        print(f"| {name} | {mine / theirs:.1f} | {mine / plain:.2f} | {mine:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
