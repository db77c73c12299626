"""What benchmarks share: random models, made-up rollouts, rounds of timing, what a device can do at most, tables.

A benchmark is a script, ``python benchmarks/NAME/run.py``. Figures are ratios within one call on one machine: ways take turns in one
process and medians over rounds are compared. On a machine with other work, one thread and ``--clock cpu`` leave that out of the ratios.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from rlvr_core.learner.learner import When
from rlvr_core.objective import build_objective
from rlvr_core.records import Rollout
from rlvr_core.setup import build_learner
from rlvr_core.testing.bench import Bench, resolved_for
from rlvr_core.testing.fakes import scripted_rollouts

PAD = 0
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

# vocabulary, hidden, intermediate, layers, heads, key-value heads
SIZES = {
    "tiny": (64, 16, 32, 2, 2, 1),
    "0.5M": (2048, 64, 288, 4, 2, 2),
    "2M": (4096, 128, 576, 4, 4, 2),
    "8M": (8192, 256, 1152, 4, 4, 2),
    "30M": (8192, 512, 2304, 6, 8, 2),
    "0.1B": (32768, 512, 2304, 12, 8, 2),
    "0.5B": (151936, 896, 4864, 24, 14, 2),
    "1.5B": (151936, 1536, 8960, 28, 12, 2),
}
Shape = tuple[int, int, int, int, int, int]
"""A model's numbers in the order of ``SIZES``."""

LEARNER_SHARE = (
    "The learner's share of peak counts 6 operations for each weight of a matrix and token (in the head, completion tokens alone) and "
    "attention's products; what is computed twice, for padding or without gradient is not counted."
)
DECODE_SHARE = (
    "Decode's share of bandwidth counts the matrices' weights once a token step, steps up to the longest completion, and keys and values "
    "of rows that have not ended, 2 bytes a number; that much must be read at least."
)


def arguments_of(
    doc: str | None, parser: argparse.ArgumentParser, argv: Sequence[str] | None, rounds: int = 3, clock: bool = True
) -> argparse.Namespace:
    """The command line, with what every benchmark has. ``rounds``: its default on a CPU; ``clock``: it can leave other work out."""
    parser.description, parser.formatter_class = doc, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, help=f"medians are over so many; {rounds}, on an accelerator 1")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    if clock:
        parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: seconds that this process computed")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, once: does it run? Its figures mean nothing")
    parser.add_argument("--output", type=Path, help="write the table (and plot) into this folder too")
    found = parser.parse_args(argv)
    if clock and found.clock == "cpu" and found.device != "cpu":
        parser.error("--clock cpu does not see what an accelerator does; leave it out")
    found.rounds = found.rounds or (rounds if found.device == "cpu" else 1)
    return found


def random_qwen2(size: str, device: str, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A Qwen2 of a size in ``SIZES``, made on the device. Random weights: every token is about as likely as any other.

    ``changes``: of its configuration.
    """
    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    )  # fmt: skip
    shape = {**dict(zip(names, SIZES[size], strict=True)), **changes}
    torch.manual_seed(0)
    config = Qwen2Config(
        **shape, max_position_embeddings=32768, tie_word_embeddings=False, pad_token_id=PAD, eos_token_id=1, bos_token_id=None
    )
    with torch.device(device):
        made = Qwen2ForCausalLM(config)
    return made.to(dtype).eval()  # type: ignore[arg-type,no-any-return]


def matrices(shape: Shape) -> tuple[int, int]:
    """Weights of the body's matrices and of the head's."""
    vocabulary, hidden, inner, layers, heads, shared = shape
    return layers * hidden * (2 * hidden + 2 * hidden * shared // heads + 3 * inner), vocabulary * hidden


def learning_work(shape: Shape, rows: Iterable[tuple[int, int]]) -> float:
    """Operations that learning from rows of (prompt, completion) tokens takes at least, as ``LEARNER_SHARE`` has it."""
    (body, head), (_, hidden, _, layers, _, _) = matrices(shape), shape
    return float(sum(6 * ((p + c) * body + c * head) + 6 * hidden * layers * (p + c) ** 2 for p, c in rows))


def decoding_bytes(shape: Shape, rows: Sequence[tuple[int, int]]) -> float:
    """Bytes that decoding rows of (prompt, completion) tokens reads at least, as ``DECODE_SHARE`` has it."""
    _, hidden, _, layers, heads, shared = shape
    seen = sum(c * p + c * (c - 1) // 2 for p, c in rows)
    return 2.0 * max(c for _, c in rows) * sum(matrices(shape)) + 2.0 * seen * 2 * layers * hidden * shared // heads


@dataclass(frozen=True)
class Ceilings:
    """What a device was measured to do at most: operations of a matrix product, and bytes read and written by a copy, a second."""

    device: str
    kind: str
    operations: float
    bytes: float

    def __str__(self) -> str:
        return (
            f"Measured ceilings of {self.device}: {self.operations / 1e12:,.3g} TFLOP/s ({self.kind} matrix product), "
            f"{self.bytes / 1e9:,.4g} GB/s (copy, bytes read and written)."
        )


def ceilings(device: str, side: int = 8192, gib: float = 2.0, turns: int = 10) -> Ceilings:
    """Measure them: a product of random square matrices (bfloat16; float32 on a CPU) and a copy within the device's memory; medians."""
    gpu = device != "cpu"
    multiply = _multiply_s(device, torch.bfloat16 if gpu else torch.float32, side, turns)
    copy = _copy_s(device, int(gib * 2**30), turns)
    release(device)
    name = torch.cuda.get_device_name() if gpu else "the CPU"
    return Ceilings(name, "bf16" if gpu else "float32", 2 * side**3 / multiply, 2 * int(gib * 2**30) / copy)


def _multiply_s(device: str, dtype: torch.dtype, side: int, turns: int) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    return _median_s(lambda: torch.mm(a, b, out=product), turns, device)


def _copy_s(device: str, size: int, turns: int) -> float:
    here = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    there = torch.empty_like(here)
    return _median_s(lambda: there.copy_(here), turns, device)


def _median_s(work: Callable[[], object], turns: int, device: str) -> float:
    """Median seconds of one turn, after three that are not counted; on a GPU by its own events."""
    for _ in range(3):
        work()
    spent = []
    for _ in range(turns):
        if device != "cpu":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            spent.append(start.elapsed_time(end) / 1000)
        else:
            began = time.perf_counter()
            work()
            spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def release(device: str) -> None:
    """Give the device back what nobody holds any more."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def geometric_lengths(number: int, mean: int, limit: int, seed: int) -> list[int]:
    """Completion lengths with a constant probability of ending, cut at ``limit``."""
    uniform = torch.rand(number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lengths = (uniform.log() / torch.tensor(1 - 1 / mean, dtype=torch.float64).log()).ceil()
    return [int(length) for length in lengths.clamp(1, limit)]


def made_up(
    rewards: Sequence[float], lengths: Sequence[int], group: int, prompt: int, vocabulary: int, seed: int
) -> list[Rollout]:
    """Rollouts with these rewards and completion lengths, ``group`` a prompt, behind prompts of ``prompt`` tokens."""

    def grouped(values: Sequence[Any]) -> list[Sequence[Any]]:
        return [values[start : start + group] for start in range(0, len(values), group)]

    rollouts = scripted_rollouts(grouped(rewards), grouped(lengths), vocab_size=vocabulary, seed=seed)
    return [replace(r, prompt_ids=(*r.prompt_ids, *[2] * prompt)[:prompt]) for r in rollouts]


def learner_of(objective: Mapping[str, Any], model: PreTrainedModel, device: str, **learner: Any) -> Bench:
    """The learner of a training around a model, without rollouts; ``learner`` sets options of the learner section."""
    resolved = resolved_for(objective, learning_rate=1e-6, max_grad_norm=1.0, **learner)
    built = build_objective(resolved.objective)
    made, preparer = build_learner(resolved, built, model, Accelerator(cpu=device == "cpu"))
    return Bench(resolved, built, made, preparer)


def learn(bench: Bench, rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Select, prepare, credit and update, on rollouts that are exactly the current policy's. The update's metrics."""
    version = bench.learner.version
    batch, credit = bench.prepare([replace(r, policy_version=version) for r in rollouts])
    return bench.learner.update(batch, credit, len(rollouts), When(0, version))


def seconds(work: Callable[[int], object], turn: int, clock: str, device: str) -> float:
    """What ``work(turn)`` takes, the device's part included."""
    now = CLOCKS[clock]
    start = now()
    work(turn)
    if device != "cpu":
        torch.cuda.synchronize()
    return now() - start


def medians(ways: Sequence[Callable[[int], object]], rounds: int, clock: str, device: str) -> list[float]:
    """Seconds of each way, ``way(round)``: the median of rounds in which they take turns."""
    found: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds):
        for way, spent in zip(ways, found, strict=True):
            spent.append(seconds(way, turn, clock, device))
    return [statistics.median(spent) for spent in found]


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Least squares: intercept and slope of y over x."""
    fit = statistics.linear_regression(x, y)
    return fit.intercept, fit.slope


class Table:
    """A Markdown table, printed row by row (unless ``quiet``), and written to ``table.md`` of a folder where one is given."""

    def __init__(self, columns: Sequence[str], folder: Path | None = None, quiet: bool = False) -> None:
        self.folder, self.quiet, self.lines = folder, quiet, list[str]()
        self.row(*columns)
        self.row(*["---"] * len(columns))

    def row(self, *cells: str) -> None:
        """One row more."""
        self._add(f"| {' | '.join(cells)} |")

    def note(self, text: str) -> None:
        """A paragraph below the rows."""
        self._add(f"\n{text}")

    def _add(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)
        self.lines.append(text)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "table.md").write_text("\n".join(self.lines) + "\n", encoding="utf-8")
