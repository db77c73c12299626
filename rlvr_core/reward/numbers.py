"""Numbers in normal form, exactly."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_EXPONENT = 400
"""Largest decimal exponent in scientific notation."""

GROUPED = r"[0-9]{1,3}(?:,[0-9]{3})+"
_WHOLE = rf"(?:{GROUPED}|[0-9]{{1,3}}(?: [0-9]{{3}})+|[0-9]+)"
_DECIMAL = re.compile(
    rf"(?P<sign>[-+]?)(?P<whole>{_WHOLE})?(?:\.(?P<part>[0-9]*)(?:\\(?:overline|bar)\{{(?P<repeating>[0-9]{{1,50}})\}})?)?"
    r"(?:[eE](?P<e>[-+]?[0-9]{1,9})|(?:\\times|\\cdot|\*) ?10\^(?:\{(?P<braced>[-+]?[0-9]{1,9})\}|(?P<bare>[0-9])))?(?P<percent>%?)"
)
_FRACTION = re.compile(
    rf"(?P<sign>[-+]?)(?:(?P<whole>[0-9]+) ?(?=\\|[0-9]+/)(?<![0-9](?=[0-9])))?"
    rf"(?:\\frac\{{(?P<inner>[-+]?)(?P<n>{_WHOLE})\}}\{{(?P<under>[-+]?)(?P<d>{_WHOLE})\}}|(?P<n2>{_WHOLE})/(?P<d2>{_WHOLE}))"
    r"(?P<percent>%?)"
)


def as_number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction, mixed number, percentage or number in scientific notation in normal form."""
    decimal = _DECIMAL.fullmatch(text)
    if decimal:
        return _decimal(decimal)
    fraction = _FRACTION.fullmatch(text)
    return _fraction(fraction) if fraction else None


def in_latex(value: Fraction) -> str:
    """The number as an exact fraction."""
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}" if value.denominator > 1 else str(value)


def _plain(digits: str) -> str:
    return digits.replace(",", "").replace(" ", "")


def _decimal(match: re.Match[str]) -> Fraction | None:
    whole, part, repeating = _plain(match["whole"] or ""), match["part"] or "", match["repeating"] or ""
    exponent = int(match["e"] or match["braced"] or match["bare"] or 0)
    if not whole + part + repeating or abs(exponent) > MAX_EXPONENT:
        return None
    value = Fraction(int((whole + part) or "0"), 10 ** len(part))
    if repeating:
        value += Fraction(int(repeating), (10 ** len(repeating) - 1) * 10 ** len(part))
    return _signed(match, value * Fraction(10) ** exponent)


def _fraction(match: re.Match[str]) -> Fraction | None:
    n, d = (int(_plain(match[a] or match[b])) for a, b in (("n", "n2"), ("d", "d2")))
    if d == 0 or (match["whole"] and (match["inner"] or match["under"])):
        return None
    negative = [match["inner"], match["under"]].count("-") == 1
    return _signed(match, int(match["whole"] or 0) + Fraction(-n if negative else n, d))


def _signed(match: re.Match[str], value: Fraction) -> Fraction:
    return value * (-1 if match["sign"] == "-" else 1) / (100 if match["percent"] else 1)
