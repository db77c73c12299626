"""What the learner costs against the share of positives: POPO, which learns from those alone, and GRPO, which learns from all.

    .venv/bin/python benchmarks/positive_rate/run.py --output benchmarks/positive_rate

Select, prepare, credit and update run on made-up rollouts of a random Qwen2 (none is drawn or rewarded): lengths geometric, at each rate
the positives spread evenly over the lengths, so that their share of tokens is the rate too. A line is fitted through POPO's seconds over
the rate; its intercept is what a step costs that learns from nothing (optimizer, twin, clipping). The table and ``plot.png`` hold shares
of POPO's time at rate 1 and ratios to GRPO's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import (
    LEARNER_SHARE,
    SIZES,
    Table,
    arguments_of,
    ceilings,
    geometric_lengths,
    learn,
    learner_of,
    learning_work,
    line,
    made_up,
    medians,
    random_qwen2,
)

from rlvr_core.records import Rollout
from rlvr_core.testing.bench import Bench

RATES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0)


def rewards_at(rate: float, lengths: Sequence[int]) -> list[float]:
    """1 for this share of rollouts, evenly spread over the lengths; at least one."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    positives = max(1, round(rate * len(lengths)))
    places = {order[int((k + 0.5) * len(lengths) / positives)] for k in range(positives)}
    return [float(row in places) for row in range(len(lengths))]


def token_share(rollouts: Sequence[Rollout]) -> float:
    """Positives' share of the tokens that forwards run over."""
    return sum(r.tokens for r in rollouts if r.reward) / sum(r.tokens for r in rollouts)


def draw(folder: Path, rates: Sequence[float], popo: Sequence[float], grpo: Sequence[float]) -> None:
    """``plot.png``: seconds of both over the rate, as shares of GRPO's mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    unit = sum(grpo) / len(grpo)
    intercept, slope = line(rates, popo)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(rates, [t / unit for t in grpo], "s", color="C1", label="GRPO (learns from all)")
    axes.plot(rates, [t / unit for t in popo], "o", color="C0", label="POPO (learns from positives)")
    axes.plot([0, 1], [intercept / unit, (intercept + slope) / unit], color="C0", alpha=0.6, label="line through POPO's")
    axes.set(xlabel="positive rate", ylabel="learner time / GRPO's mean", xlim=(0, 1.03), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(folder / "plot.png", dpi=130)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each rate, then the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--mean", type=int, help="mean completion length before it is cut at four times that; 32, on CUDA 512")
    parser.add_argument("--size", choices=sorted(SIZES), help="8M, on CUDA 0.5B")
    found = arguments_of(__doc__, parser, argv)
    gpu = found.device != "cpu"
    model_size, mean = found.size or ("0.5B" if gpu else "8M"), found.mean or (512 if gpu else 32)
    rates, rounds, prompts, group = RATES, found.rounds, found.prompts, found.group
    if found.quick:
        model_size, mean, rates, rounds, prompts, group = "tiny", 4, (0.25, 0.5, 1.0), 1, 2, 4

    most = ceilings(found.device) if gpu else None
    benches: list[Bench] = [
        learner_of(
            {"name": name}, random_qwen2(model_size, found.device), found.device, max_tokens_per_microbatch=16384 if gpu else 2048
        )
        for name in ("popo", "grpo")
    ]
    vocabulary = benches[0].learner.root.policy.config.vocab_size
    lengths = geometric_lengths(prompts * group, mean, 4 * mean, seed=0)
    work = [made_up(rewards_at(rate, lengths), lengths, group, 24, vocabulary, seed=0) for rate in rates]
    learn(benches[1], work[0])  # what is done once: the optimizer's state
    padding = [learn(benches[0], rollouts)["learn/padding_share"] for rollouts in work]
    ways = [partial(lambda bench, rollouts, _: learn(bench, rollouts), bench, rollouts) for rollouts in work for bench in benches]
    spent = medians(ways, rounds, found.clock, found.device)
    popo, grpo = spent[::2], spent[1::2]

    table = Table(["positive rate", "share of tokens", "POPO's padding", "POPO / POPO at rate 1", "POPO / GRPO"], found.output)
    for rate, rollouts, padded, mine, theirs in zip(rates, work, padding, popo, grpo, strict=True):
        row = f"{rate:.2f}", f"{token_share(rollouts):.3f}", f"{padded:.0%}", f"{mine / popo[-1]:.3f}", f"{mine / theirs:.2f}"
        table.row(*row)
    intercept, slope = line(rates, popo)
    off = max(abs(t - intercept - slope * rate) for rate, t in zip(rates, popo, strict=True))
    table.note(
        f"Line through POPO's: intercept {intercept / popo[-1]:.1%} and slope {slope / popo[-1]:.1%} of the time at rate 1; "
        f"the furthest point is {off / popo[-1]:.1%} off it."
    )
    if most is not None:
        rows = [(24, length) for length in lengths]
        speeds = (
            f"{name} {sum(map(sum, rows)) / s:,.0f} tokens/s, {learning_work(SIZES[model_size], rows) / s / most.operations:.1%} of peak"
            for name, s in (("POPO", popo[-1]), ("GRPO", grpo[-1]))
        )
        table.note(f"At rate 1: {'; '.join(speeds)}. {most} {LEARNER_SHARE}")
    if found.output is not None:
        draw(found.output, rates, popo, grpo)


if __name__ == "__main__":
    main()
