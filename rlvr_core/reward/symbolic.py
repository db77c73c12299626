"""math-verify's opinion on two expressions, and a second look at what it finds equal."""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, NamedTuple

from rlvr_core.records import Status
from rlvr_core.reward.extraction import boxed
from rlvr_core.reward.normal_form import FUNCTION_NAMES, connectives


class Verdict(NamedTuple):
    """1 or 0, and how that was found."""

    value: float
    status: Status
    reason: str


def compare_symbolic(gold: str, answer: str) -> Verdict:
    """math-verify's opinion, and a second look at what it finds equal."""
    try:
        g, a = _parse(_for_sympy(gold)), _parse(_for_sympy(answer))
        if g is None:
            return Verdict(0.0, "error", "the gold is not understood")
        if a is None:
            return Verdict(0.0, "unparsed", "the answer is not understood")
        equal = _verified(g, a) and _confirmed(g, a)
    except Exception as error:  # sympy and the parser raise anything at all; the completion's fault has one meaning
        return Verdict(0.0, "unparsed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Verdict(float(equal), "ok", "equal expressions" if equal else "another expression")


def mixes_cases(text: str) -> bool:
    """Whether some letter is used as a name in upper and in lower case."""
    names = variables(text)
    return any(name.isupper() and name.lower() in names for name in names)


def variables(text: str) -> set[str]:
    """Letters that stand for something: neither a command's nor a function's."""
    bare = re.sub(rf"\\[A-Za-z]+|(?<![A-Za-z])(?:{FUNCTION_NAMES.replace(' ', '|')})(?![A-Za-z])", " ", text)
    return set(re.findall("[A-Za-z]", bare))


def _for_sympy(text: str) -> str:
    """Decimals as fractions, so that every comparison is exact; functions with their backslash."""
    text = re.sub(r"(?<![A-Za-z\\])sqrt\(([^()]*)\)", r"\\sqrt{\1}", connectives(text))
    text = re.sub(rf"(?<![A-Za-z\\])({FUNCTION_NAMES.replace(' ', '|')})(?![A-Za-z])", r"\\\1 ", text)

    def exact(match: re.Match[str]) -> str:
        return rf"{{(\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}})}}"

    return re.sub(r"(?<![0-9.])([0-9]*)\.([0-9]+)", exact, text)


@cache
def _math_verify() -> tuple[Any, Any, Any]:
    """(parse, verify, extraction config), imported on the first comparison that needs them (half a second)."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    for name in ("math_verify.parser", "math_verify.grader"):  # they warn that their timeouts, which need signals, are off
        logging.getLogger(name).setLevel(logging.ERROR)
    normalization = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    return parse, verify, (LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization),)


@lru_cache(maxsize=16_384)
def _parse(text: str) -> Any:
    """A sympy object, or None. Given in a box, alone, so that nothing else can be picked from it."""
    parse, _, config = _math_verify()
    found = parse(boxed(text), config, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None)
    return found[0] if found else None


def _verified(gold: Any, answer: Any) -> bool:
    _, verify, _ = _math_verify()
    return bool(verify([gold], [answer], timeout_seconds=None, raise_on_error=True))


def _confirmed(gold: Any, answer: Any) -> bool:
    """A second look at what math-verify found equal: it chops small numbers, and takes equations without solutions for the same."""
    from sympy import And, Expr, FiniteSet, Tuple
    from sympy.core.relational import Relational

    if isinstance(gold, Relational) and isinstance(answer, Relational):
        return _same_relation(gold, answer)
    if isinstance(gold, And | Tuple | FiniteSet) and isinstance(answer, And | Tuple | FiniteSet):
        return all(any(_confirmed(g, a) for a in answer.args) for g in gold.args)
    if isinstance(gold, Expr) and isinstance(answer, Expr):
        return _same_number(gold, answer)
    return True


def _same_relation(gold: Any, answer: Any) -> bool:
    """Both sides subtracted, one is a multiple of the other by a number; a positive one for inequalities that point the same way."""
    from sympy import Eq, Ne, simplify

    if gold.lhs == gold.rhs or answer.lhs == answer.rhs:
        return False
    ratio = simplify((gold.lhs - gold.rhs) / (answer.lhs - answer.rhs))
    if ratio.free_symbols or not ratio.is_finite or ratio.is_zero:
        return False
    if isinstance(gold, Eq | Ne):
        return type(gold) is type(answer)
    same_way = gold.rel_op[0] == answer.rel_op[0]
    return bool(ratio.is_positive if same_way else ratio.is_negative) and len(gold.rel_op) == len(answer.rel_op)


def _same_number(gold: Any, answer: Any) -> bool:
    """Equal to 30 digits, where both are numbers; the same infinity, where they are not finite."""
    from sympy import Abs

    if gold.free_symbols or answer.free_symbols:
        return True
    if not (gold.is_finite and answer.is_finite):
        return bool(gold.doit() == answer.doit())
    difference, size = Abs(gold - answer).evalf(50), Abs(gold).evalf(50)
    return bool(difference <= size * Fraction(1, 10**30) + Fraction(1, 10**60))
