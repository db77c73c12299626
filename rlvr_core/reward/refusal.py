"""What must not reach sympy: it would blow up, or read it as something else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import comb, prod

from rlvr_core.reward.normal_form import FUNCTION_NAMES, MAX_DEPTH

MAX_SYMBOLIC = 500
"""Characters of the longest expression that sympy gets."""
MAX_POWER = 10_000
MAX_TERMS = 10_000
"""Terms that multiplying out an expression may give at most."""
MAX_FACTORIAL = 1_000

_FUNCTIONS = frozenset(FUNCTION_NAMES.split())
_WORDS = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")
_COMMON_WORDS = (
    "and or not if is no yes for int let all any the of to in by so we it be as at an on def mod div true false none nan inf"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_TEXT_ONLY = re.compile(r"\\(?:sum|prod|i*int|oint|lim|bigcup|bigcap|frac\{d\})(?![a-zA-Z])")
_LONE_INFINITY = re.compile(
    r"(?<=[\[(])[-+]?\\infty(?=,)|(?<=,)[-+]?\\infty(?=[\])])|^[-+]?\\infty$|(?<=[<>])[-+]?\\infty$|^[-+]?\\infty(?=[<>])"
)
_ROOT = re.compile(r"\\?sqrt|\\l(?:floor|ceil)|\|")
_TRANSCENDENTAL = re.compile(r"(?<![A-Za-z])\\?(?:arc)?(?:sin|cos|tan|cot|sec|csc|log|ln|lg|exp)h?(?![a-z])")
_SMALL = r"\{(?:[0-9]|[0-9]?[A-Za-z](?:[-+][0-9A-Za-z])?)\}"
_BINOMIAL = re.compile(rf"\\binom(?:\{{[0-9]{{1,2}}\}}\{{[0-9]{{1,2}}\}}|{_SMALL}{_SMALL})")
MAX_ROOTS, MAX_FUNCTIONS, MAX_FUNCTION_POWER = 8, 4, 20
_FACTORIAL_OPERAND = re.compile(r"(?:(?<![0-9A-Za-z.^])(?P<number>[0-9]+)|(?<![A-Za-z\\])[A-Za-z]|\([^()^!]*[A-Za-z][^()^!]*\))$")


def refuse(text: str) -> str:
    """Why sympy must not get this normal form: it could take forever, or would be read as something else. Empty: it may."""
    checks = (_refuse_size, _refuse_shape, _refuse_words, _refuse_functions, _refuse_powers, _refuse_factorials)
    return next((reason for check in checks if (reason := check(text))), "")


def _refuse_size(text: str) -> str:
    if len(text) > MAX_SYMBOLIC:
        return f"has {len(text)} characters, too many for a symbolic comparison"
    if re.search("[0-9]{100}", text):
        return "holds a number of a hundred digits or more"
    return ""


def _refuse_shape(text: str) -> str:
    depth = _depth(text)
    if depth is None:
        return "has brackets that do not match"
    if depth > MAX_DEPTH:
        return f"is nested {depth} deep"
    if re.search(r"[0-9.][eE][-+]?[0-9]", text):
        return "is a number out of range"
    if re.search(r"[0-9] ?_", text):
        return "is written in another base"
    if re.search(r"[`'\"#&;@?:=<>~$]|\|\||\\\\", text) or not text.isascii():
        return "is not mathematics"
    if re.search(r"[\[\]]", re.sub(r"\\sqrt\[[^\[\]]*\]", "", text)):
        return "holds a list or an open bracket"
    if re.search(r"[-+]{3}", text):
        return "holds a run of signs"
    if re.search(r"(?<![0-9.])0\^\{?0", text):
        return "is undefined"
    if _TEXT_ONLY.search(text):
        return "holds a sum, product, integral or limit, which is compared as text only"
    if re.search(r"[0-9] [0-9]", text):
        return "holds numbers with nothing between them"
    if re.search(r"\\infty", _LONE_INFINITY.sub("", text)):
        return "calculates with infinity"
    return ""


def _depth(text: str) -> int | None:
    """Deepest nesting of braces and round brackets; None where braces do not match. (Intervals leave brackets open.)"""
    braces = depth = deepest = 0
    for mark in re.findall(r"\\.|[{}()\[\]]", text):
        depth += {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}.get(mark, 0)
        braces += {"{": 1, "}": -1}.get(mark, 0)
        if braces < 0:
            return None
        deepest = max(deepest, depth)
    return None if braces else deepest


def _refuse_words(text: str) -> str:
    for match in _WORDS.finditer(text):
        word = match[0]
        if word in _FUNCTIONS:
            continue
        beside = text[: match.start()][-1:] + text[match.end() :][:1]
        product = len(word) == 2 and bool(set(beside) & set("+-*/^"))  # as in ax+by
        if len(word) > 3 or (word.lower() in _COMMON and not product):
            return f"holds the word '{word[:20]}'"
    return ""


def _refuse_functions(text: str) -> str:
    functions = len(_TRANSCENDENTAL.findall(text))
    if functions > MAX_FUNCTIONS or len(_ROOT.findall(text)) > MAX_ROOTS:
        return "holds too many functions or roots"
    if functions and ("!" in text or "\\binom" in text):
        return "holds functions beside factorials or binomials"
    if functions and max(_exponent_sizes(text), default=0) > MAX_FUNCTION_POWER:
        return "holds functions beside a large power"
    if "\\binom" in _BINOMIAL.sub("", text) or len(_BINOMIAL.findall(text)) > MAX_FUNCTIONS:
        return "holds binomials of more than small numbers and letters"
    return ""


def _refuse_powers(text: str) -> str:
    exponents = [_exponent(text, match.end()) for match in re.finditer(r"\^", text)]
    if any("^" in exponent for exponent in exponents) or re.search(r"\^[0-9A-Za-z]\^", text):
        return "holds a power in an exponent"
    if any("!" in exponent or "\\binom" in exponent for exponent in exponents):
        return "holds a factorial in an exponent"
    sizes = _exponent_sizes(text)
    compound = re.search(r"[)\]}]\^", text) is not None
    if (prod(sizes) if compound else max(sizes, default=1)) > MAX_POWER:
        return "holds a huge power"
    if re.search("[A-Za-z]", re.sub(r"\\(?:frac|cdot|times)", "", text)) and _terms(text) > MAX_TERMS:
        return "holds powers or products of sums with too many terms"
    return ""


def _terms(text: str) -> int:
    """At most so many terms come of multiplying everything out, as if every bracket were a factor of what stands beside it."""
    open_groups = [_Group()]
    for token in re.finditer(r"(?P<open>[{(\[])|(?P<close>[})\]])|(?P<sign>[-+])", text):
        if token["open"]:
            open_groups.append(_Group())
        elif token["sign"]:
            open_groups[-1].next_summand()
        elif len(open_groups) > 1:
            inside = open_groups.pop().total()
            power = _size(_exponent(text, token.end() + 1)) if text[token.end() : token.end() + 1] == "^" else 1
            open_groups[-1].factor *= comb(power + inside - 1, inside - 1)
        if open_groups[-1].total() > MAX_TERMS:
            return MAX_TERMS + 1
    return prod(group.total() for group in open_groups)


@dataclass
class _Group:
    """A bracket while its terms are counted: those of the summands so far, and of the factors of the summand at hand."""

    before: int = 0
    factor: int = 1

    def next_summand(self) -> None:
        self.before, self.factor = self.total(), 1

    def total(self) -> int:
        return self.before + self.factor


def _exponent_sizes(text: str) -> list[int]:
    return [_size(_exponent(text, match.end())) for match in re.finditer(r"\^", text)]


def _size(exponent: str) -> int:
    """No less than the exponent's value, as long as only sums and products stand in it."""
    return prod(max(2, int(number)) for number in re.findall("[0-9]+", exponent))


def _exponent(text: str, start: int) -> str:
    """What stands in the exponent that starts here: a group, or the run of characters up to an operator."""
    closing = {"{": "}", "(": ")"}.get(text[start : start + 1])
    if closing is None:
        run = re.match(r"[-+]?(?:[0-9.]+|\\?[A-Za-z]+(?:\{[^{}]*\})*)", text[start:])
        return run[0] if run else ""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] in "{(") - (text[position] in "})")
        if depth == 0:
            return text[start + 1 : position]
    return text[start:]


def _refuse_factorials(text: str) -> str:
    for match in re.finditer("!", text):
        operand = _FACTORIAL_OPERAND.search(text[: match.start()])
        if operand is None or (operand["number"] and int(operand["number"]) > MAX_FACTORIAL):
            return "holds a factorial of more than a small number or a letter"
    return ""
