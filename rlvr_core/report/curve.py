"""The curve of a run, or of several: reward a step, and evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr_core.errors import RlvrError, RunFolderError


def draw(runs: Sequence[Path], output: Path) -> None:
    """Write a picture. Raises RunFolderError where a folder is no run, RlvrError where matplotlib is missing."""
    if output.suffix not in (".png", ".svg", ".pdf") or output.is_dir():
        raise RlvrError(f"--output {output}: name a file that ends in .png, .svg or .pdf")
    read = [(run, *_read(run)) for run in runs]
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise RlvrError("drawing needs matplotlib: pip install 'rlvr[report]'") from error
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (run, rows, summary) in enumerate(read):
        name = f"{summary.get('objective', run.name)}, seed {summary.get('seed', '?')}" if summary else run.name
        colour = f"C{number}"
        axes.plot(
            [row["step"] for row in rows], [row["reward/mean"] for row in rows], color=colour, alpha=0.8, label=f"{name}: reward"
        )
        points = _evaluations(summary, len(rows))
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=colour, markeredgecolor="black", label=f"{name}: held-out pass@1")
    axes.set(xlabel="step", ylabel="reward in training, pass@1 held out", ylim=(0, 1.02) if _all_within_one(read) else None)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    try:
        figure.savefig(output, dpi=130)
    except (OSError, ValueError) as error:
        raise RlvrError(f"{output}: cannot be written: {error}") from error
    finally:
        plt.close(figure)


def _read(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of metrics.jsonl, and summary.json where the run has ended."""
    try:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(f"{run} is no run's folder: there is no metrics.jsonl in it") from None
    summary = run / "summary.json"
    return rows, json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}


def _evaluations(summary: dict[str, Any], last: int) -> list[tuple[int, float]]:
    places = {"before": 0, "after": summary.get("steps", last)}
    return sorted((places.get(when) or int(when.removeprefix("step ") if when.startswith("step ") else 0), result["pass@1"])
                  for when, result in summary.get("eval", {}).items())  # fmt: skip


def _all_within_one(read: Sequence[tuple[Path, list[dict[str, Any]], dict[str, Any]]]) -> bool:
    return all(0 <= row["reward/mean"] <= 1 for _, rows, _ in read for row in rows)
