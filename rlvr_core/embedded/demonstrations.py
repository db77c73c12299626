"""What the embedded model learns from before any reinforcement: worked sums in which many steps are wrong.

    4+7+5=  4+7=12, 12+5=17 \\boxed{17}

A wrong step claims a sum that is a little off, the next goes on from that claim, and the box repeats the last one. So what such a
model gets wrong is a well-formed wrong answer, never a broken format.
"""

from __future__ import annotations

import random

from rlvr_core.tasks.arithmetic import Operands, chain_of, is_held_out, prompt_of
from rlvr_core.tasks.options_arithmetic import RESERVED


def demonstration(count: int, wrong: float, slips: tuple[int, ...], draw: random.Random) -> tuple[str, str]:
    """Prompt and completion over ``count`` operands that no run holds out, each step wrong with probability ``wrong``."""
    operands = _open_operands(count, draw)
    claims, running = [], operands[0]
    for term in operands[1:]:
        running += term
        if draw.random() < wrong:
            running += draw.choice([slip for slip in slips if running + slip >= 0])
        claims.append(running)
    return prompt_of(operands), chain_of(operands, claims)


def _open_operands(count: int, draw: random.Random) -> Operands:
    """Operands outside everything that a run may hold out."""
    while True:
        operands = tuple(draw.randrange(10) for _ in range(count))
        if not is_held_out(operands, RESERVED):
            return operands
