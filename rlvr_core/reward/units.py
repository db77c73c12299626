"""Units, currencies and counted things behind a value: ``5 cm^2``, ``¤5``, ``20 miles per hour``, ``5 apples``."""

from __future__ import annotations

import re

_SPELLINGS = (
    "millimeter mm millimeters millimetre millimetres|centimeter cm centimeters centimetre centimetres|decimeter dm decimeters|"
    "meter meters metre metres|kilometer km kms kilometers kilometre kilometres|inch in inches|foot ft feet|yard yd yards|"
    "mile mi miles|milligram mg milligrams|gram grams|kilogram kg kgs kilograms|ounce oz ounces|pound lb lbs pounds GBP £|ton tons|"
    "tonne tonnes|milliliter ml mL milliliters|liter liters litre litres|gallon gal gallons|quart qt quarts|pint pt pints|cup cups|"
    "second sec secs seconds|minute min mins minutes|hour hr hrs hours|day days|week weeks|month months|year yr yrs years|"
    "degree degrees|celsius|fahrenheit|kelvin kelvins|radian rad radians|dollar dollars usd USD ¤|cent cents|euro euros EUR €|yen ¥|"
    "rupee rupees ₹ Rs|unit units|mph|kmh kph|people person persons|child children|man men|woman women"
)
_CANONICAL = {word: line.split()[0] for line in _SPELLINGS.split("|") for word in line.split()}
_CANONICAL |= {"h": "hour", "s": "second", "m": "meter", "mph": "mile/hour", "kmh": "kilometer/hour", "kph": "kilometer/hour"}
_SIGNS = "¤€£¥₹"
_UNSPACED = frozenset({"mm", "cm", "km", "kg", *_SIGNS})
"""Short units that may stand right behind a number; other letters there are names, as in ``2pt``."""
_NOT_COUNTED_WORDS = (
    "and but for nor not out than then the thus with about maybe more most less fewer plus minus times point negative half "
    "halves third thirds fourth fourths quarter quarters fifth fifths sixth sixths seventh sevenths eighth eighths ninth "
    "ninths tenth tenths hundredth hundredths thousandth thousandths tens dozen dozens score scores hundred hundreds thousand "
    "thousands million millions billion billions trillion trillions lakh lakhs crore crores pair pairs couple couples gross "
    "squared cubed choose factorial factorials mod modulo percent percents base perhaps always others unless plus guess is "
    "was has this its yes degrees"
)
_NOT_COUNTED = frozenset(_NOT_COUNTED_WORDS.split())
_WORD = r"(?:(?:[A-Za-z]{2,}|(?<=/)[hsm])(?:\^\{?[23]\}?)?)"
_TAIL = re.compile(
    rf"(?P<value>.*(?:[0-9.)}}]|\\pi|\\sqrt[0-9])) ?(?P<unit>{_WORD}(?:(?: ?/ ?| ){_WORD}){{0,4}}|[{_SIGNS}])", re.DOTALL
)
_COUNTED = re.compile(r"(?P<value>[-+]?[0-9][0-9,./]*) (?P<unit>[a-z]{3,}(?: [a-z]{3,}){0,2}s)")
_PREFIX = re.compile(rf"(?P<minus>-?)(?P<unit>[{_SIGNS}]) ?(?P<value>-?[0-9.\\(].*)", re.DOTALL)
_TRIGONOMETRY = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")


def split_unit(text: str) -> tuple[str, str]:
    """(value, unit in one spelling) where a value in normal form has one; (text, "") otherwise."""
    prefix = _PREFIX.fullmatch(text)
    if prefix:
        return prefix["minus"] + prefix["value"], _CANONICAL[prefix["unit"]]
    tail = _TAIL.fullmatch(text)
    if (
        tail
        and (len(tail["unit"]) > 3 or tail["unit"] in _UNSPACED or text[tail.end("value")] == " ")
        and not _TRIGONOMETRY.search(text)
    ):
        unit = _one_spelling(tail["unit"])
        if unit:
            return tail["value"].strip(), unit
    counted = _COUNTED.fullmatch(text)
    if counted and not _NOT_COUNTED & set(counted["unit"].split()):
        return counted["value"], counted["unit"]
    return text, ""


def _one_spelling(unit: str) -> str:
    """``square km per hr`` as ``kilometer^2/hour``; empty where some word is no unit."""
    parts = []
    for side in re.split(r" ?/ ?| per ", unit):
        words, power = side.split(), ""
        if words[0] in ("square", "sq", "cubic", "cu"):
            power = "^2" if words.pop(0).startswith("sq") else "^3"
        if len(words) != 1:
            return ""
        bare, _, exponent = words[0].partition("^")
        if bare not in _CANONICAL:
            return ""
        parts.append(_CANONICAL[bare] + (f"^{exponent.strip('{}')}" if exponent else power))
    return "/".join(parts)
