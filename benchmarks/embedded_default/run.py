"""Train the embedded default with several objectives and seeds, and print one table.

    .venv/bin/python benchmarks/embedded_default/run.py popo:0 popo:1 popo:2 grpo:0 ppo:0 control:0

``control`` is POPO with rewards shuffled over the rollouts of each step. Runs go one after the other; their folders stay in --output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def train(what: str, folder: Path) -> dict[str, Any]:
    """One run; its summary."""
    objective, _, seed = what.partition(":")
    name = "popo" if objective == "control" else objective
    control = ["--set", "control=shuffled_rewards"] if objective == "control" else []
    output = folder / what.replace(":", "-seed")
    command = [
        sys.executable,
        "-m",
        "rlvr_core",
        "run",
        "--objective",
        name,
        "--seed",
        seed or "0",
        "--output",
        str(output),
        *control,
    ]
    subprocess.run([*command, "--overwrite"], check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads((output / "summary.json").read_text()))


def main() -> None:
    """Run what was asked for and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="objective:seed, or control:seed")
    parser.add_argument("--output", type=Path, default=Path("runs/embedded_default"))
    arguments = parser.parse_args()
    print("| run | pass@1 before | after | seconds |\n| --- | --- | --- | --- |", flush=True)
    for what in arguments.runs:
        summary = train(what, arguments.output)
        before, after = (summary["eval"][when]["pass@1"] for when in ("before", "after"))
        print(f"| {what} | {before:.3f} | {after:.3f} | {summary['wall_s']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
