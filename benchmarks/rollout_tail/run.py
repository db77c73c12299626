"""Useful tokens a second against the spread of completion lengths: this engine, a bare loop, and ``generate``.

    .venv/bin/python benchmarks/rollout_tail/run.py

A random Qwen2 samples 16 prompts (16 to 63 tokens long) x 8 completions of a given mean length, at four spreads: from all of one length
(no end token, cut at the mean) to geometric lengths cut at 2, 4 and 8 times their mean. A token is useful that its row's completion holds;
what is computed for rows that have ended, or for padding, is not. The three take turns in one process; the table holds medians of rounds,
and ratios of these. On a machine with other work, one thread and `--clock cpu` leave that out of the ratios.

On a GPU: a model of 0.5 B in bfloat16, 32 prompts x 8, mean 256, and the engine's share of the bandwidth that a copy reaches. A way that
would need more than --most-s seconds for a row, by its pace in the rows before, is left out of it.
"""

from __future__ import annotations

import argparse
import math
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
from common import CLOCKS, DECODE_SHARE, PAD, SIZES, Table, arguments_of, ceilings, decoding_bytes, random_qwen2

from rlvr_core.components.options import TransformersEngineOptions
from rlvr_core.records import Request, RowKey, Sampling
from rlvr_core.rollout.transformers_engine import TransformersEngine


@dataclass(frozen=True)
class Work:
    """What is to be decoded: ``ends`` are the end tokens, ``limit`` the longest completion. ``engine`` decodes with the model."""

    model: PreTrainedModel
    engine: TransformersEngine
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

    version, tokenizer = 0, None

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.exact = model, model.dtype == torch.float32

    def held(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @torch.no_grad()
    def decode(self, **inputs: Any) -> Any:
        return self.model(**inputs)


def engine_for(model: PreTrainedModel) -> TransformersEngine:
    """The engine, started as training starts it: once."""
    engine = TransformersEngine(TransformersEngineOptions())
    engine.start(Handle(model))
    for note in engine.notes():
        print(note, file=sys.stderr, flush=True)
    return engine


def ours(work: Work, seed: int) -> list[int]:
    """Tokens of each completion, decoded by the engine."""
    requests = [Request(RowKey(1, p, s), ids) for p, ids in enumerate(work.prompts) for s in range(work.group)]
    return [len(c.ids) for c in work.engine.generate(requests, Sampling(1.0, work.limit, work.ends, (), seed))]


@torch.no_grad()
def bare(work: Work, seed: int) -> list[int]:
    """Tokens of each completion, decoded by a plain loop that drops ended rows from the cache once they are an eighth of it."""
    torch.manual_seed(seed)
    ids, mask = work.padded()
    ends, cache = torch.tensor(work.ends, dtype=torch.int64, device=ids.device), DynamicCache(config=work.model.config)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    lengths, alive = torch.zeros_like(ids[:, 0]), torch.arange(len(ids), device=ids.device)
    for step in range(work.limit):
        output = work.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        logprobs = torch.log_softmax(output.logits[:, -1].float(), -1)
        ids, positions = torch.multinomial(logprobs.exp(), 1), positions[:, -1:] + 1
        logprobs.gather(-1, ids)
        lengths[alive] += (~ended).long()
        ended |= torch.isin(ids[:, 0], ends)
        if ended.all() or step + 1 == work.limit:
            break
        if int(ended.sum()) * 8 >= len(ended):
            keep = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            ids, mask, positions, ended, alive = ids[keep], mask[keep], positions[keep], ended[keep], alive[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return [int(length) for length in lengths.tolist()]


def generate(work: Work, seed: int) -> list[int]:
    """Tokens of each completion, decoded by the model's own ``generate``, log-probs not counted: it does not give them."""
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
    over = torch.isin(found, torch.tensor(work.ends, dtype=torch.int64, device=found.device))
    return [int(length) for length in torch.where(over.any(-1), over.int().argmax(-1) + 1, found.shape[1]).tolist()]


Way = Callable[[Work, int], list[int]]
Turn = tuple[float, list[int]]
"""Seconds, and the completions' lengths."""


def turns(work: Work, ways: Sequence[Way], rounds: int, clock: Callable[[], float]) -> list[list[Turn]]:
    """Rounds in which the ways take turns, by way."""
    found: list[list[Turn]] = [[] for _ in ways]
    for turn in range(rounds):
        for way, spent in zip(ways, found, strict=True):
            start = clock()
            lengths = way(work, turn)
            if work.model.device.type == "cuda":
                torch.cuda.synchronize()
            spent.append((clock() - start, lengths))
    return found


def useful(found: Sequence[Turn]) -> float:
    """Useful tokens a second: the median of rounds."""
    return statistics.median(sum(lengths) / seconds for seconds, lengths in found)


def lead(mine: float, found: Sequence[Turn] | None, digits: int) -> str:
    """Our rate over another's, where that was run."""
    return "not run" if found is None else f"{mine / useful(found):.{digits}f}"


def steps_of(work: Work, mean: int) -> float:
    """Token steps to expect: the longest of so many geometric lengths, cut."""
    return min(work.limit, mean * (math.log(len(work.prompts) * work.group) + 0.6)) if work.ends else work.limit


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each spread."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=sorted(SIZES), help="8M, on a GPU 0.5B")
    parser.add_argument("--mean", type=int, help="mean completion length, before it is cut; 32, on a GPU 256")
    parser.add_argument("--spreads", type=int, nargs="+", default=[1, 2, 4, 8], help="cuts, in means; 1: no end token")
    parser.add_argument("--most-s", type=float, help="a way expected to take longer is left out of a row; on a GPU 15")
    found = arguments_of(__doc__, parser, argv)
    gpu, clock = found.device != "cpu", CLOCKS[found.clock]
    name, number, group, mean = ("0.5B", 32, 8, 256) if gpu else ("8M", 16, 8, 32)
    name, mean, spreads, rounds = found.size or name, found.mean or mean, found.spreads, found.rounds
    most_s = found.most_s or (15.0 if gpu else math.inf)
    if found.quick:
        name, number, group, spreads, mean, rounds = "tiny", 4, 2, (1, 2), 4, 1
    most = ceilings(found.device) if gpu else None
    model = random_qwen2(name, found.device, torch.bfloat16 if gpu else torch.float32)
    size = model.config.vocab_size
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(16, 64, (number,), generator=draw).tolist()
    prompts = [tuple(torch.randint(2, min(size, 4096), (length,), generator=draw).tolist()) for length in lengths]
    engine, ways = engine_for(model), (ours, bare, generate)
    turns(Work(model, engine, prompts[:2], 2, (), 4), ways, 1, clock)  # whatever is done once
    columns = ["completion lengths", "ours / generate", "ours / bare loop", "useful tokens/s"]
    table = Table(columns if most is None else [*columns, "share of bandwidth"], found.output)
    pace = dict.fromkeys(ways, 0.0)
    for spread in spreads:
        ends = () if spread == 1 else tuple(range(size - size // mean, size))
        work = Work(model, engine, prompts, group, ends, spread * mean)
        label = f"all {work.limit}" if spread == 1 else f"geometric, mean {mean}, cut at {work.limit}"
        able = [way for way in ways if pace[way] * steps_of(work, mean) <= most_s]
        got = dict(zip(able, turns(work, able, rounds, clock), strict=True))
        pace |= {way: max(seconds / max(lengths) for seconds, lengths in spent) for way, spent in got.items()}
        if ours not in got:
            table.row(label, *["not run"] * (len(columns) - 1 + (most is not None)))
            continue
        mine = useful(got[ours])
        cells = [lead(mine, got.get(generate), 1), lead(mine, got.get(bare), 2), f"{mine:,.0f}"]
        if most is not None:
            read = statistics.median(
                decoding_bytes(SIZES[name], [(len(prompts[row // group]), c) for row, c in enumerate(lengths)]) / seconds
                for seconds, lengths in got[ours]
            )
            cells.append(f"{read / most.bytes:.1%}")
        table.row(label, *cells)
    if most is not None:
        table.note(f"{most} {DECODE_SHARE}")


if __name__ == "__main__":
    main()
