"""The learner's peak memory against vocabulary and completion length, beside the plain computation with all logits at once.

    .venv/bin/python benchmarks/memory/run.py

One update (forward, backward, AdamW) of a small random Qwen2 on B completions of T tokens, by this engine's learner (GRPO's loss; all
in one micro-batch) and by a few plain lines: logits of every position, log_softmax, gather, the same loss. A point's figure is what the
update adds to the memory that model and optimizer hold already: on CPU, in a process for each point, the resident peak above what was
resident before; on CUDA the peak of allocations above those before. The model's body is small, so that what is seen is the head and the
loss. Points of the plain computation that would hold more than --limit-gib in four arrays of [B,T,V] are left out and say so.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import Table, arguments_of, learn, learner_of, line, made_up, random_qwen2, release

from rlvr_core.records import Rollout

PROMPT = 16
BODY = {"num_hidden_layers": 2, "intermediate_size": 128}
SHAPES = ("1x512", "1x1024", "1x2048", "1x4096", "1x8192", "4x2048")
COPIES = 4
"""Arrays of [B,T,V] that the plain computation holds at least: logits, their log_softmax, and the gradient of each."""


def plain_update(model: PreTrainedModel, optimizer: torch.optim.Optimizer, rollouts: Sequence[Rollout], autocast: bool) -> None:
    """One step on all logits at once; the rows are of one length."""
    device = model.device
    ids = torch.tensor([r.prompt_ids + r.completion_ids for r in rollouts], device=device)
    old = torch.tensor([r.logprobs for r in rollouts], dtype=torch.float32, device=device)
    advantage = torch.tensor([r.reward - 0.5 for r in rollouts], device=device)[:, None]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        logits: Tensor = model(input_ids=ids, use_cache=False).logits[:, PROMPT - 1 : -1]
    logprobs = torch.log_softmax(logits.float(), -1).gather(-1, ids[:, PROMPT:, None]).squeeze(-1)
    ratio = (logprobs - old).exp()
    loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean(-1).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def resident() -> int:
    """Bytes of this process in memory now, after the allocator has given back what it holds in reserve."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def added_by(update: Callable[[], object], device: str) -> int:
    """Bytes that an update adds at its peak."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        update()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    before = resident()
    update()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def measure(way: str, vocabulary: int, rows: int, length: int, chunk: int, device: str) -> int:
    """One point, in this process: bytes."""
    model = random_qwen2("0.5M", device, vocab_size=vocabulary, **BODY)
    lengths = [length] * rows

    def rollouts(lengths: Sequence[int]) -> list[Rollout]:
        return made_up([1.0, 0.0] * len(lengths), [*lengths, *[1] * len(lengths)], 2 * len(lengths), PROMPT, vocabulary, 0)

    if way == "ours":
        bench = learner_of(
            {"name": "grpo"}, model, device, logprob_chunk_tokens=chunk, max_tokens_per_microbatch=rows * (PROMPT + length)
        )
        learn(bench, rollouts([1] * rows))  # the optimizer's state is there afterwards
        return added_by(partial(learn, bench, rollouts(lengths)), device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    plain_update(model, optimizer, rollouts([1] * rows)[:rows], device != "cpu")
    return added_by(partial(plain_update, model, optimizer, rollouts(lengths)[:rows], device != "cpu"), device)


def point(way: str, vocabulary: int, rows: int, length: int, chunk: int, device: str) -> float | None:
    """One point: MiB; None where an accelerator's memory does not suffice.

    On a CPU in a process of its own, whose peak can be read once. An accelerator's peak is reset, and a process takes seconds to start.
    """
    if device != "cpu":
        release(device)  # the last point's model
        try:
            return measure(way, vocabulary, rows, length, chunk, device) / 2**20
        except torch.OutOfMemoryError:
            return None
    numbers = [str(n) for n in (vocabulary, rows, length, chunk)]
    command = [sys.executable, __file__, "--device", device, "--point", way, *numbers]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(ended.stdout)) / 2**20


def growth_of(measured: Mapping[str, Sequence[tuple[int, float]]], vocabulary: int) -> list[str]:
    """KiB that a token adds, by a line through (tokens, MiB), and what a token's logits are; nothing where points are too few."""
    if any(len({tokens for tokens, _ in points}) < 2 for points in measured.values()):
        return []
    ours, plain = (line(*zip(*measured[way], strict=True))[1] * 1024 for way in ("ours", "plain"))
    return [f"V {vocabulary:,}: ours {ours:.1f} KiB, plain {plain:,.0f} KiB, its logits alone {vocabulary * 4 / 1024:,.0f} KiB"]


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each vocabulary and length."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32768, 151936])
    parser.add_argument("--shapes", nargs="+", help=f"rows x tokens; {' '.join(SHAPES)}, on CUDA 4x8192 too")
    parser.add_argument("--chunk", type=int, default=1024, help="learner.logprob_chunk_tokens")
    parser.add_argument("--limit-gib", type=float, help="the plain computation is not run beyond; 6, on CUDA 40")
    parser.add_argument("--point", nargs=5, metavar=("WAY", "V", "B", "T", "CHUNK"), help="one point in this process: bytes")
    found = arguments_of(__doc__, parser, argv)
    if found.point:
        way, *numbers = found.point
        vocabulary, rows, length, chunk = map(int, numbers)
        print(measure(way, vocabulary, rows, length, chunk, found.device))
        return
    gpu = found.device != "cpu"
    vocabularies, chunk, limit = found.vocabularies, found.chunk, found.limit_gib or (40.0 if gpu else 6.0)
    shapes = found.shapes or [*SHAPES, *(["4x8192"] if gpu else [])]
    if found.quick:
        vocabularies, shapes, chunk = [2048], ["1x64"], 16
    table = Table(["V", "B x T", "ours, MiB", "plain, MiB", "plain / ours", "one [B,T,V] array, MiB"], found.output)
    growths: list[str] = []
    for vocabulary in vocabularies:
        measured: dict[str, list[tuple[int, float]]] = {"ours": [], "plain": []}
        for shape in shapes:
            rows, length = map(int, shape.split("x"))
            array = rows * length * vocabulary * 4 / 2**20
            ours = point("ours", vocabulary, rows, length, chunk, found.device)
            if ours is None:
                table.row(f"{vocabulary:,}", shape.replace("x", " x "), "does not fit", "", "", f"{array:,.0f}")
                continue
            fits = COPIES * array <= limit * 1024
            plain = point("plain", vocabulary, rows, length, chunk, found.device) if fits else None
            measured["ours"] += [(rows * length, ours)] if rows * length >= 2 * chunk else []
            measured["plain"] += [(rows * length, plain)] if plain is not None else []
            cells = ("not run", f"> {COPIES * array / ours:.1f}") if plain is None else (f"{plain:,.0f}", f"{plain / ours:.1f}")
            table.row(f"{vocabulary:,}", shape.replace("x", " x "), f"{ours:,.0f}", *cells, f"{array:,.0f}")
        growths += growth_of(measured, vocabulary)
    if gpu:
        table.note(f"Peaks of allocations on {torch.cuda.get_device_name()}, bfloat16 autocast.")
    if growths:
        table.note(f"What one more token adds (ours: from two chunks, {2 * chunk} tokens, on). {'; '.join(growths)}.")


if __name__ == "__main__":
    main()
