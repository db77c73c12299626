"""Steps of TRL's GRPOTrainer on the workload: python trl_grpo.py FOLDER OUT DEVICE ROWS_PER_DEVICE STEPS [OPTION=VALUE ...]

Options are GRPOConfig's, their values JSON (or text). On a GPU: float32 weights under bfloat16 autocast, as its default has it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import workload
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Timed(TrainerCallback):
    """Seconds between the ends of steps."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        workload.wait(self.device)
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        workload.wait(self.device)
        self.seconds.append(time.perf_counter() - self.start)


def without_triton() -> None:
    """Where Triton has no compiler to build its launchers with, TRL's head folds its tiles in torch instead."""
    compiler = "CC" in os.environ or any(map(shutil.which, ("cc", "gcc", "clang")))
    if not compiler or not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        from trl.kernels import chunked_logprob

        chunked_logprob._TRITON_AVAILABLE = False
        print("no compiler for Triton: TRL's head runs without its kernels", flush=True)


def assigned(option: str) -> tuple[str, Any]:
    """NAME=VALUE."""
    name, _, value = option.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main(folder: Path, out: Path, device: str, rows_per_device: int, steps: int, *assignments: str) -> None:
    """Time each step; completions are drawn in the first part of each."""
    work, gpu = workload.read(folder), device != "cpu"
    if gpu:
        without_triton()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    rows = Dataset.from_list([{"prompt": text} for text in json.loads((folder / "prompts.json").read_text())])
    options = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": rows_per_device,
        "gradient_accumulation_steps": work.rollouts // rows_per_device, "num_generations": work.group,
        "max_completion_length": work.limit, "temperature": 1.0, "beta": 0.0, "learning_rate": workload.LEARNING_RATE,
        "lr_scheduler_type": "constant", "max_steps": steps, "use_cpu": not gpu, "bf16": gpu, "gradient_checkpointing": False,
        "report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "shuffle_dataset": False,
        "max_grad_norm": 1.0,
    }  # fmt: skip
    timed = Timed(device)
    spent: list[float] = []
    lengths: list[workload.Lengths] = []
    trainer = GRPOTrainer(
        str(folder / "model"),
        workload.rewards,
        args=GRPOConfig(**{**options, **dict(map(assigned, assignments))}),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[timed],
    )
    draw = trainer._generate

    def timed_draw(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        found = draw(*arguments, **named)
        workload.wait(device)
        spent.append(time.perf_counter() - start)
        lengths.append([(len(p), len(c)) for p, c in zip(found[0], found[1], strict=True)])
        return found

    trainer._generate = timed_draw
    trainer.train()
    workload.report(out, "TRL GRPOTrainer", device, timed.seconds, spent, lengths, lengths)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), *sys.argv[6:])
