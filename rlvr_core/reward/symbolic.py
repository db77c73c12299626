"""Single values and relations compared by sympy, which reads them with math-verify's parser."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

from rlvr_core.records import Status
from rlvr_core.reward.extraction import boxed
from rlvr_core.reward.normal_form import FUNCTION_NAMES

DIGITS, AGREEING = 260, 220
"""Digits to which expressions are evaluated, and how many must agree: more than a decimal that is let through can have."""
POINTS = ("7/5", "-11/13", "29/11", "-37/17", "43/19", "5/23")
"""Values of the first name at which expressions are compared; another name takes other values."""
MAX_NAMES = 8


class Verdict(NamedTuple):
    """1 or 0, and how that was found."""

    value: float
    status: Status
    reason: str


Relation = tuple[str, str, str]
"""Left side, sign, right side."""


def compare_values(gold: str, answer: str) -> Verdict:
    """Whether two expressions are the same wherever they are defined."""
    return _decided((gold,), (answer,), lambda g, a: _same_expression(g[0], a[0]))


def compare_relations(gold: Relation, answer: Relation) -> Verdict:
    """Whether one relation, all on one side, is a multiple of the other by a number."""
    signs = gold[1], answer[1]
    return _decided(gold[::2], answer[::2], lambda g, a: _same_relation(signs, g[0] - g[1], a[0] - a[1]))


def _decided(gold: tuple[str, ...], answer: tuple[str, ...], same: Callable[[Any, Any], bool]) -> Verdict:
    try:
        cased = _mixes_cases(" ".join(gold + answer))
        golds, answers = ([_parse(_for_sympy(text, cased)) for text in texts] for texts in (gold, answer))
        if None in golds:
            return Verdict(0.0, "error", "the gold is not understood")
        if None in answers:
            return Verdict(0.0, "unparsed", "the answer is not understood")
        equal = same(golds, answers)
    except Exception as error:  # sympy and the parser raise anything at all; the completion's fault has one meaning
        return Verdict(0.0, "unparsed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Verdict(float(equal), "ok", "equal expressions" if equal else "another expression")


def _mixes_cases(text: str) -> bool:
    """Whether some letter is used as a name in upper and in lower case."""
    names = variables(text)
    return any(name.isupper() and name.lower() in names for name in names)


def variables(text: str) -> set[str]:
    """Letters that stand for something: neither a command's nor a function's."""
    bare = re.sub(rf"\\[A-Za-z]+|(?<![A-Za-z])(?:{FUNCTION_NAMES.replace(' ', '|')})(?![A-Za-z])", " ", text)
    return set(re.findall("[A-Za-z]", bare))


_WORD_BELOW = re.compile(r"_\{([A-Za-z]{2,8})\}")
"""A subscript of several letters; the parser wants a number there."""


def _for_sympy(text: str, cased: bool) -> str:
    """Decimals as fractions, so that every comparison is exact; functions with their backslash; capitals told from small letters."""
    if "(" not in text:
        text = re.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", text)
    text = _WORD_BELOW.sub(lambda word: f"_{{{int.from_bytes(word[1].encode())}}}", text)
    text = re.sub(r"(?<![A-Za-z\\])sqrt\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(rf"(?<![A-Za-z\\])({FUNCTION_NAMES.replace(' ', '|')})(?![A-Za-z])", r"\\\1 ", text)
    text = re.sub(r"\^-([0-9]+|[A-Za-z])", r"^{-\1}", text)
    if cased:  # the parser takes N for n
        text = re.sub(r"(?<![A-Za-z\\])[A-Z](?![A-Za-z_])", lambda letter: f"{letter[0].lower()}_{{77}}", text)

    def exact(match: re.Match[str]) -> str:
        return rf"{{(\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}})}}"

    return re.sub(r"(?<![0-9.])([0-9]*)\.([0-9]+)", exact, text)


@cache
def _math_verify() -> tuple[Any, Any]:
    """(parse, extraction config), imported on the first comparison that needs them (half a second)."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    for name in ("math_verify.parser", "math_verify.grader"):  # they warn that their timeouts, which need signals, are off
        logging.getLogger(name).setLevel(logging.ERROR)
    normalization = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    return parse, (LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization),)


@lru_cache(maxsize=16_384)
def _parse(text: str) -> Any:
    """A sympy expression, or None. Given in a box, alone, so that nothing else can be picked from it."""
    from sympy import Expr, I

    parse, config = _math_verify()
    found = parse(boxed(text), config, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None)
    if not found or not isinstance(found[0], Expr):
        return None
    return found[0].xreplace({symbol: I for symbol in found[0].free_symbols if symbol.name == "i"})


def _same_relation(signs: tuple[str, str], gold: Any, answer: Any) -> bool:
    from sympy import simplify

    if not gold.free_symbols or not answer.free_symbols:
        return False
    ratio = simplify(gold / answer)
    if ratio.free_symbols or not ratio.is_finite or ratio.is_zero:
        return False
    if signs[0] == signs[1] and signs[0] in ("=", r"\ne"):
        return True
    return signs[1] == (signs[0] if ratio.is_positive else {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}.get(signs[0]))


def _same_expression(gold: Any, answer: Any) -> bool:
    """Equal exactly where both are rational, else to so many digits that no decimal passes; with names, at several points."""
    from sympy import Rational

    names = sorted(gold.free_symbols | answer.free_symbols, key=str)
    if len(names) > MAX_NAMES:
        raise ValueError(f"more than {MAX_NAMES} names")
    if not names:
        return _same_constant(gold, answer)
    if gold == answer:
        return True
    compared = 0
    for place in range(len(POINTS)):
        values = {name: Rational(POINTS[(place + n) % len(POINTS)]) * (n + 1) + n for n, name in enumerate(names)}
        g, a = (_number(side.xreplace(values)) for side in (gold, answer))
        if g is None or a is None:
            continue
        if not _close(g, a):
            return False
        compared += 1
    return compared >= 3


def _same_constant(gold: Any, answer: Any) -> bool:
    gold, answer = gold.doit(), answer.doit()
    if gold == answer:
        return bool(gold.is_finite or gold.is_infinite)
    if gold.is_Rational and answer.is_Rational:
        return False
    g, a = _number(gold), _number(answer)
    return g is not None and a is not None and _close(g, a)


def _number(expression: Any) -> Any:
    """A finite complex number of ``DIGITS`` digits, or None where there is none."""
    value = expression.doit().evalf(DIGITS)
    return value if value.is_number and value.is_finite and all(part.is_Number for part in value.as_real_imag()) else None


def _close(gold: Any, answer: Any) -> bool:
    from sympy import Abs, Rational

    return bool(Abs(gold - answer) <= Rational(1, 10**AGREEING) * max(Abs(gold), Abs(answer)))
