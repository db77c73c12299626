"""Steps of TRL's GRPOTrainer on the workload: python trl_grpo.py FOLDER OUT ROWS_PER_DEVICE STEPS"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import workload
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Timed(TrainerCallback):
    """Seconds between the ends of steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def main(folder: Path, out: Path, rows_per_device: int, steps: int) -> None:
    """Time each step; completions are drawn in the first part of each."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    rows = Dataset.from_list([{"prompt": text} for text in json.loads((folder / "prompts.json").read_text())])
    whole = workload.PROMPTS * workload.GROUP
    gpu = torch.cuda.is_available()
    options = GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=rows_per_device,
        gradient_accumulation_steps=whole // rows_per_device, num_generations=workload.GROUP, max_completion_length=workload.LIMIT,
        temperature=1.0, beta=0.0, learning_rate=workload.LEARNING_RATE, lr_scheduler_type="constant", max_steps=steps, use_cpu=not gpu,
        bf16=gpu, gradient_checkpointing=False, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
        shuffle_dataset=False, max_grad_norm=1.0,
    )  # fmt: skip
    timed = Timed()
    spent: list[float] = []
    trainer = GRPOTrainer(
        str(folder / "model"), workload.rewards, args=options, train_dataset=rows, processing_class=tokenizer, callbacks=[timed]
    )
    draw = trainer._generate

    def timed_draw(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        found = draw(*arguments, **named)
        spent.append(time.perf_counter() - start)
        return found

    trainer._generate = timed_draw
    trainer.train()
    logged = [row for row in trainer.state.log_history if "completions/mean_length" in row]
    tokens = [round(row["completions/mean_length"] * whole) for row in logged]
    workload.report(out, "TRL GRPOTrainer", timed.seconds, spent, tokens)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
