r"""Reward ``reasoning_gym``: the score that the data set which made a problem gives to an answer.

Nine of Reasoning Gym's scorers evaluate the answer as Python (``eval``, or sympy's ``parse_expr``, which uses it). A completion must not
run code here, so what they are handed is first read as a literal, or as plain arithmetic, and is worth 0 where it is neither.
"""

from __future__ import annotations

import ast
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from rlvr_core.contracts import Reward
from rlvr_core.errors import DataError
from rlvr_core.records import Outcome, RewardItem
from rlvr_core.reward.extraction import find_box
from rlvr_core.tasks.options_reasoning_gym import GymRewardOptions
from rlvr_core.tasks.reasoning_gym_rows import ENTRY, INSTALL

MAX_ANSWER = 20_000
"""Characters of the longest answer that is scored; grids and lists of moves are long."""

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_EVALUATED = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
_PARSED = frozenset({"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"})
_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt", "Abs"}
)
_STEEP = frozenset({"exp", "sinh", "cosh", "sec", "csc", "tan", "cot"})
_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Call, ast.Load, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow,
    ast.Mod, ast.FloorDiv, ast.UAdd, ast.USub, ast.BitXor,
)  # fmt: skip
MAX_GROWTH = 1_000
"""Largest product of the exponents that a power stands under."""


class GymReward(Reward):
    """The data set's own score; it abstains from rows that Reasoning Gym did not make."""

    options: GymRewardOptions
    states_answers = True

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """One outcome an item, in order. Never raises for what a completion holds."""
        return [self._score(item) for item in items]

    def as_completion(self, gold: str) -> str | None:
        """The oracle's answer, stated; None where the data set keeps none."""
        if not gold:
            return None
        return {"boxed": f"\\boxed{{{gold}}}", "all": gold}.get(self.options.answer, f"<answer>{gold}</answer>")

    def answer(self, completion: str) -> str | None:
        """What stands in the tag or the box."""
        where = self.options.answer
        if where == "all":
            return completion.strip() or None
        tags = _TAG.findall(completion) if where in ("auto", "tag") else []
        found = tags[-1] if tags else find_box(completion)[0] if where in ("auto", "boxed") else None
        return None if found is None else found.strip() or None

    def _score(self, item: RewardItem) -> Outcome:
        made = item.columns.get(ENTRY)
        if made is None:
            return Outcome(None, "abstain", "not a problem of Reasoning Gym")
        start = time.perf_counter()
        outcome = self._judged(made, self.answer(item.completion))
        return Outcome(outcome.value, outcome.status, outcome.reason, (time.perf_counter() - start) * 1e3)

    def _judged(self, made: Mapping[str, Any], answer: str | None) -> Outcome:
        if answer is None:
            return Outcome(0.0, "no_answer", "no answer stands where it is looked for")
        if len(answer) > MAX_ANSWER:
            return Outcome(0.0, "no_answer", f"the answer has {len(answer)} characters, more than {MAX_ANSWER}")
        refusal = refused(made["dataset"], answer)
        if refusal:
            return Outcome(0.0, "unparsed", refusal)
        try:
            value = float(scorer(made["dataset"], json.dumps(made["config"], sort_keys=True))(answer, made["entry"]))
        except DataError:
            raise
        except Exception as error:  # a scorer that fails on an answer has not found it right
            return Outcome(0.0, "unparsed", f"the data set's scorer fails: {type(error).__name__}")
        if not math.isfinite(value):
            return Outcome(0.0, "unparsed", f"the data set's scorer gives {value}")
        if not self.options.partial:
            value = float(value >= 1.0)
        return Outcome(value, reason=f"{made['dataset']} gives {value:g}")


@lru_cache(maxsize=256)
def scorer(dataset: str, config: str) -> Callable[[str, Mapping[str, Any]], float]:
    """A data set's ``score_answer``, under the configuration (JSON) of the problem. Raises DataError where the package is missing."""
    try:
        from reasoning_gym import create_dataset
    except ImportError as error:
        raise DataError(f"reward reasoning_gym needs the package reasoning_gym: {INSTALL}") from error
    score: Callable[[str, Mapping[str, Any]], float] = create_dataset(dataset, seed=0, size=1, **json.loads(config)).score_answer
    return score


def refused(dataset: str, answer: str) -> str:
    """Why an answer is not handed to a scorer that would evaluate it; empty where it may be."""
    if dataset in _EVALUATED and not _is_literal(answer):
        return "not a plain Python value, and the data set's scorer would run it"
    if dataset in _PARSED and not is_arithmetic(answer):
        return "not plain arithmetic, and the data set's scorer would run it"
    return ""


def _is_literal(answer: str) -> bool:
    """Numbers, text and lists; also the words and numbers that these scorers take as they are."""
    if re.fullmatch(r"[\w\s.,;-]*", answer) and "__" not in answer:
        return True  # nothing here can be called
    try:
        ast.literal_eval(answer)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def is_arithmetic(answer: str) -> bool:
    """Numbers, names, operators and known functions, and no power that could grow out of hand."""
    try:
        tree = ast.parse(answer.strip(), mode="eval")
        return all(_is_plain(node) for node in ast.walk(tree)) and _growth(tree) <= MAX_GROWTH
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _is_plain(node: ast.AST) -> bool:
    if not isinstance(node, _NODES):
        return False
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return name in _FUNCTIONS and not (name in _STEEP and _has_steep_call(argument))
        case ast.Call():
            return False
        case ast.Name(id=name):
            return not name.startswith("_")
        case ast.BinOp(op=ast.Pow(), right=exponent):
            powers = any(isinstance(inner, ast.Pow) for inner in ast.walk(exponent))
            return not powers and not _has_steep_call(exponent)
    return True


def _has_steep_call(node: ast.AST) -> bool:
    """Whether a function that grows like a power is called in there."""
    return any(
        isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id in _STEEP for inner in ast.walk(node)
    )


def _growth(node: ast.AST) -> float:
    """The largest product of nested exponents; an exponent counts as the product of its numbers."""
    inner = max((_growth(child) for child in ast.iter_child_nodes(node)), default=1.0)
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)):
        return inner
    numbers = [abs(n.value) for n in ast.walk(node.right) if isinstance(n, ast.Constant) and isinstance(n.value, int | float)]
    return inner * math.prod(max(1.0, number) for number in numbers)
