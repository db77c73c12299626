"""Options of the arithmetic task. Imports no torch."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from rlvr_core.options import Options, option

RESERVED = 0.25
"""Share of all operand tuples that the embedded model's warm start never sees, so the most that a run can hold out."""


class ArithmeticOptions(Options):
    """Sums of one-digit numbers, worked out in a written chain of steps."""

    min_operands: int = option(3, "numbers to add in the shortest problems; the chain has one step less", ge=2, le=12)
    max_operands: int = option(4, "numbers to add in the longest problems; every count between occurs equally often", ge=2, le=12)
    train_problems: int = option(20_000, "training problems; drawn at random, so the same operands come up more than once", ge=1)
    eval_problems: int = option(512, "held-out problems, all different; 0: none", ge=0)
    held_out: float = option(
        RESERVED,
        "share of all operand tuples that never occur in training, picked by a hash of the operands; "
        f"at most {RESERVED}, because the embedded model was warm-started on the others",
        gt=0,
        le=RESERVED,
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_operands > self.max_operands:
            raise ValueError(f"min_operands ({self.min_operands}) is above max_operands ({self.max_operands})")
        return self
