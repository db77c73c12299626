"""Answers in one spelling, and as exact numbers where they are some."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_EXPONENT = 400
"""Largest decimal exponent in scientific notation."""
MAX_DEPTH = 12
"""Braces or brackets inside each other, at most."""
FUNCTION_NAMES = "arcsin arccos arctan sin cos tan cot sec csc sinh cosh tanh log ln lg exp sqrt pi infty gcd lcm max min"


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


def connectives(text: str) -> str:
    """``1 or 2``, ``1 and 2`` as ``1,2``."""
    return re.sub(r"(?<![A-Za-z])(?:,? ?)(?:and|or)(?![A-Za-z]) ?", ",", text)


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


def without_one_sided(gold: str, answer: str) -> tuple[str, str]:
    """Leave out what only one of the two says: a unit or currency, or ``x=``."""
    bare = [_split_unit(text) for text in (gold, answer)]
    units = [unit for _, unit in bare]
    if units[0] == units[1] or not all(units):
        gold, answer = bare[0][0], bare[1][0]
    gold, answer = connectives(gold), connectives(answer)
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
