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
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import CLOCKS, PAD, Table, arguments_of, random_qwen2

from rlvr_core.components.options import TransformersEngineOptions
from rlvr_core.records import Request, RowKey, Sampling
from rlvr_core.rollout.transformers_engine import TransformersEngine


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


def rates(work: Work, ways: Sequence[Callable[[Work, int], int]], rounds: int, clock: Callable[[], float]) -> list[float]:
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


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each spread."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mean", type=int, default=32, help="mean completion length, before it is cut")
    found = arguments_of(__doc__, parser, argv)
    gpu, clock = found.device != "cpu", CLOCKS[found.clock]
    name, number, group, spreads, mean, rounds = "0.5B" if gpu else "8M", 16, 8, (1, 2, 4, 8), found.mean, found.rounds
    if found.quick:
        name, number, group, spreads, mean, rounds = "tiny", 4, 2, (1, 2), 4, 1
    model = random_qwen2(name, found.device, torch.bfloat16 if gpu else torch.float32)
    size = model.config.vocab_size
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(16, 64, (number,), generator=draw).tolist()
    prompts = [tuple(torch.randint(2, min(size, 4096), (length,), generator=draw).tolist()) for length in lengths]
    rates(Work(model, prompts[:2], 2, (), 4), [ours, bare, generate], 1, clock)  # whatever is done once
    table = Table(["completion lengths", "ours / generate", "ours / bare loop", "useful tokens/s"], found.output)
    for spread in spreads:
        ends = () if spread == 1 else tuple(range(size - size // mean, size))
        work = Work(model, prompts, group, ends, spread * mean)
        mine, plain, theirs = rates(work, [ours, bare, generate], rounds, clock)
        label = f"all {work.limit}" if spread == 1 else f"geometric, mean {mean}, cut at {work.limit}"
        table.row(label, f"{mine / theirs:.1f}", f"{mine / plain:.2f}", f"{mine:,.0f}")


if __name__ == "__main__":
    main()
