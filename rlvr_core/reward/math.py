r"""Reward ``math``: the completion's final answer equals the gold, as mathematics.

In layers, each final where it can decide: the same text in normal form; two numbers, exactly; and only then math-verify (sympy),
with what could explode, or would be misread there, refused first. A wrong 1 is learned, a wrong 0 is only waste: in doubt it is 0.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from math import comb, prod
from typing import Any, NamedTuple

from rlvr_core.contracts import Reward
from rlvr_core.records import Outcome, RewardItem, Status
from rlvr_core.reward.extraction import boxed, extract
from rlvr_core.reward.options import MathOptions

MAX_SYMBOLIC = 500
"""Characters of the longest expression that sympy gets."""
MAX_POWER = 10_000
MAX_TERMS = 10_000
"""Terms that multiplying out an expression may give at most."""
MAX_FACTORIAL = 1_000
MAX_DEPTH = 12
MAX_EXPONENT = 400
"""Largest decimal exponent in scientific notation."""


class MathReward(Reward):
    """1 for a correct final answer, 0 otherwise; the status says whether there was no answer or none that could be understood."""

    options: MathOptions

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """One outcome an item, in order. Never raises for what a completion holds."""
        return [self._score(item) for item in items]

    def as_completion(self, gold: str) -> str:
        """A completion that states this gold."""
        return boxed(gold)

    def _score(self, item: RewardItem) -> Outcome:
        start = time.perf_counter()
        found = extract(item.completion, self.options.require_box)
        verdict = Verdict(0.0, "no_answer", found.reason) if found.answer is None else compare(item.gold, found.answer)
        return Outcome(verdict.value, verdict.status, verdict.reason, (time.perf_counter() - start) * 1e3)


class Verdict(NamedTuple):
    """1 or 0, and how that was found."""

    value: float
    status: Status
    reason: str


@lru_cache(maxsize=16_384)
def compare(gold: str, answer: str) -> Verdict:
    """Whether two answers, as they stand in LaTeX or plain text, are the same."""
    g, a = normal_form(gold), normal_form(answer)
    if not a:
        return Verdict(0.0, "no_answer", "the answer is empty")
    if g == a:
        return Verdict(1.0, "ok", "equal text")
    g, a = _without_one_sided(g, a)
    numbers = as_number(g), as_number(a)
    if numbers[0] is not None and numbers[1] is not None:
        equal = numbers[0] == numbers[1]
        return Verdict(float(equal), "ok", "equal numbers" if equal else "another number")
    for side, text in (("gold", g), ("answer", a)):
        refusal = refuse(text)
        if refusal:
            return Verdict(0.0, "unparsed", f"the {side} {refusal}")
    if ("=" in g) != ("=" in a):
        return Verdict(0.0, "ok", "an equation against a value")
    if any(number is not None and _names(text) - {"e", "i"} for number, text in zip(numbers, (a, g), strict=True)):
        return Verdict(0.0, "ok", "a number against an expression with variables")
    if _mixes_cases(g + a):
        return Verdict(0.0, "unparsed", "a letter stands in both cases, which sympy's parser takes for one")
    return _compare_symbolic(g, a)


# ---------------------------------------------------------------------------------------------------------- normal form

_UNICODE = {
    **dict.fromkeys("−–—﹣－", "-"), "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ",
    "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ", "÷": "/", "⁄": "/", "°": " degrees",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
}  # fmt: skip
_TABLE = str.maketrans(_UNICODE)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_THIN = "\u00a0\u2007\u2009\u202f"

_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\\!|\\displaystyle\b|\\left(?![a-z])|\\right(?![a-z])|\\?\$", ""),
        (r"(?<!\\)\\[\(\)\[\]]", ""),
        (rf"(?<=[0-9])(?:\\,|\\ |\{{,\}}|[{_THIN}])(?=[0-9]{{3}}(?![0-9]))", ","),
        (rf"(?<!\\)\\[,;: ]|~|\\q?quad\b|[{_THIN}]", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ\b)|\\degree\b", " degrees"),
        (r"\\%", "%"),
        (r"\\(?:leqslant|leq|leqq)\b", r"\\le"),
        (r"\\(?:geqslant|geq|geqq)\b", r"\\ge"),
        (r"\*\*", "^"),
    )
)
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|normal)|operatorname\*?|mbox|hbox|boldsymbol|bm|emph)\s*\{([^{}]*)\}"
)
_SPACE = re.compile(r"\s+")
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")


def normal_form(text: str) -> str:
    """Text without what says nothing: dollar signs, font commands, spacing, a full stop at the end. Keeps a space between words."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda run: f"^{{{run[0].translate(_SUPERSCRIPTS)}}}", text).translate(_TABLE)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _without_fonts(text)
    return _LOOSE_SPACE.sub("", _SPACE.sub(" ", text)).strip().removesuffix(".").strip()


def _without_fonts(text: str) -> str:
    for _ in range(MAX_DEPTH):
        bare = _FONT.sub(r" \1 ", text)
        if bare == text:
            break
        text = bare
    return text


# -------------------------------------------------------------------------------------------------------------- numbers

_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = re.compile(
    rf"(?P<sign>[-+]?)(?P<whole>{_WHOLE})?(?:\.(?P<part>[0-9]*))?"
    r"(?:[eE](?P<e>[-+]?[0-9]{1,9})|\\(?:times|cdot) ?10\^(?:\{(?P<braced>[-+]?[0-9]{1,9})\}|(?P<bare>[0-9])))?(?P<percent>%?)"
)
_FRACTION = re.compile(
    rf"(?P<sign>[-+]?)(?:(?P<whole>[0-9]+) ?(?=\\|[0-9]+/)(?<![0-9](?=[0-9])))?"
    rf"(?:\\frac\{{(?P<inner>-?)(?P<n>{_WHOLE})\}}\{{(?P<d>{_WHOLE})\}}|(?P<n2>{_WHOLE})/(?P<d2>{_WHOLE}))(?P<percent>%?)"
)


def as_number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction, mixed number, percentage or number in scientific notation in normal form."""
    decimal = _DECIMAL.fullmatch(text)
    if decimal:
        return _decimal(decimal)
    fraction = _FRACTION.fullmatch(text)
    return _fraction(fraction) if fraction else None


def _decimal(match: re.Match[str]) -> Fraction | None:
    whole, part = (match["whole"] or "").replace(",", ""), match["part"] or ""
    exponent = int(match["e"] or match["braced"] or match["bare"] or 0)
    if not whole + part or abs(exponent) > MAX_EXPONENT:
        return None
    value = Fraction(int(whole + part), 10 ** len(part)) * Fraction(10) ** exponent
    return _signed(match, value)


def _fraction(match: re.Match[str]) -> Fraction | None:
    n, d = (int((match[a] or match[b]).replace(",", "")) for a, b in (("n", "n2"), ("d", "d2")))
    if d == 0 or (match["whole"] and match["inner"]):
        return None
    value = int(match["whole"] or 0) + Fraction(-n if match["inner"] else n, d)
    return _signed(match, value)


def _signed(match: re.Match[str], value: Fraction) -> Fraction:
    return value * (-1 if match["sign"] == "-" else 1) / (100 if match["percent"] else 1)


# ----------------------------------------------------------------------------------------------- units and names on one side

_UNIT_NAMES = (
    "dollar dollars usd cent cents euro euros pound pounds rupee rupees yen mm cm dm km inch inches foot feet ft yard yards mile miles "
    "meter meters metre metres centimeter centimeters kilometer kilometers millimeter millimeters mg kg gram grams kilogram kilograms "
    "ounce ounces oz lb lbs ton tons tonne tonnes liter liters litre litres ml gallon gallons quart quarts pint pints cup cups "
    "second seconds sec minute minutes min hour hours hr hrs day days week weeks month months year years degree degrees mph kmh kph "
    "unit units square cubic per people students apples"
)
_UNITS = frozenset(_UNIT_NAMES.split())
_UNIT_TAIL = re.compile(
    r"(?P<sign>[€£¥]?)(?P<number>[-+0-9.,/]+|[-+]?[0-9]*\\frac\{[0-9]+\}\{[0-9]+\}) ?(?P<unit>[A-Za-z/ ]*(?:\^\{?[23]\}?)?)"
)
_NAME = re.compile(r"(?:^|(?<=,))(?P<name>[A-Za-z](?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z]+\}))?(?:\([a-z]\))?)=")


def _without_one_sided(gold: str, answer: str) -> tuple[str, str]:
    """Leave out what only one of the two says: a unit or currency, or ``x=``."""
    bare = [_split_unit(text) for text in (gold, answer)]
    units = [unit for _, unit in bare]
    if units[0] == units[1] or not all(units):
        gold, answer = bare[0][0], bare[1][0]
    gold, answer = _connectives(gold), _connectives(answer)
    if ("=" in gold) != ("=" in answer):
        gold, answer = _without_name(gold), _without_name(answer)
    return gold, answer


def _split_unit(text: str) -> tuple[str, str]:
    """(number, unit) where the text is a number with a known unit; (text, "") otherwise."""
    match = _UNIT_TAIL.fullmatch(text)
    if match is None or not set(re.findall("[A-Za-z]+", match["unit"])) <= _UNITS:
        return text, ""
    return match["number"], match["sign"] + match["unit"]


def _without_name(text: str) -> str:
    """``x=1,x=2`` as ``1,2``; unchanged where several names stand there."""
    names = {match["name"] for match in _NAME.finditer(text)}
    return _NAME.sub("", text) if len(names) == 1 and text.count("=") == len(_NAME.findall(text)) else text


# ------------------------------------------------------------------------------------------------- what sympy must not get

_FUNCTION_NAMES = "arcsin arccos arctan sin cos tan cot sec csc sinh cosh tanh log ln lg exp sqrt pi infty gcd lcm max min"
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
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
    if re.search(r"[`\"#&|;@?]|==|:=", text.replace("\\|", "")) and "\\begin" not in text:
        return "is not mathematics"
    if _TEXT_ONLY.search(text):
        return "holds a sum, product, integral or limit, which is compared as text only"
    if "=" in text and not re.search(r"[A-Za-z]", text.partition("=")[0]):
        return "is an equation without a name on its left"
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
    text = re.sub(r"\\(?:begin|end)\{[a-z]*matrix\}", " ", _connectives(text))
    for word in _WORDS.findall(text):
        if word in _FUNCTIONS:
            continue
        if len(word) > 3 or word.lower() in _COMMON:
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


# -------------------------------------------------------------------------------------------------------------- symbolic


def _compare_symbolic(gold: str, answer: str) -> Verdict:
    """math-verify's opinion, and a second look at what it finds equal."""
    try:
        g, a = _parse(_for_sympy(gold)), _parse(_for_sympy(answer))
        if g is None or a is None:
            return Verdict(0.0, "unparsed", f"the {'gold' if g is None else 'answer'} is not understood")
        equal = _verified(g, a) and _confirmed(g, a)
    except Exception as error:  # sympy and the parser raise anything at all; the completion's fault has one meaning
        return Verdict(0.0, "unparsed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Verdict(float(equal), "ok", "equal expressions" if equal else "another expression")


def _mixes_cases(text: str) -> bool:
    """Whether some letter is used as a name in upper and in lower case."""
    names = _names(text)
    return any(name.isupper() and name.lower() in names for name in names)


def _names(text: str) -> set[str]:
    """Letters that stand for something: neither a command's nor a function's."""
    bare = re.sub(rf"\\[A-Za-z]+|(?<![A-Za-z])(?:{_FUNCTION_NAMES.replace(' ', '|')})(?![A-Za-z])", " ", text)
    return set(re.findall("[A-Za-z]", bare))


def _connectives(text: str) -> str:
    """``1 or 2``, ``1 and 2`` as ``1,2``."""
    return re.sub(r"(?<![A-Za-z])(?:,? ?)(?:and|or)(?![A-Za-z]) ?", ",", text)


def _for_sympy(text: str) -> str:
    """Decimals as fractions, so that every comparison is exact; functions with their backslash."""
    text = re.sub(r"(?<![A-Za-z\\])sqrt\(([^()]*)\)", r"\\sqrt{\1}", _connectives(text))
    text = re.sub(rf"(?<![A-Za-z\\])({_FUNCTION_NAMES.replace(' ', '|')})(?![A-Za-z])", r"\\\1 ", text)

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
