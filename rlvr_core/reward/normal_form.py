r"""Answers in one spelling: unicode, fonts, spacing, separators, degrees and currency.

In normal form ``;`` stands between the parts of a list (``1, 2`` or ``$1$,$2$``), while ``,`` may stand inside a number (``1,000``)
or between parts written without space; ``¤`` is the dollar of ``\$5``, and a unit or any other word has a space before it.
"""

from __future__ import annotations

import re
import unicodedata

MAX_DEPTH = 12
"""Braces or brackets inside each other, at most."""
FUNCTION_NAMES = "arcsin arccos arctan sin cos tan cot sec csc sinh cosh tanh log ln lg exp sqrt pi infty gcd lcm max min"

_UNICODE = {
    **dict.fromkeys("−–—﹣", "-"), "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ",
    "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ", "÷": "/", "⁄": "/", "∅": r"\emptyset ", "√": r"\sqrt ",
    **dict.fromkeys("°º", r"^\circ "), "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}", "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
    **dict.fromkeys("\u00a0\u2007\u2009\u202f", r"\,"), **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code - 0xFEE0) not in r"\{}"},
}  # fmt: skip
_TABLE = str.maketrans(_UNICODE)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_FONTS = r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|normal)|operatorname\*?|mbox|hbox|boldsymbol|bm|emph)"
_UPRIGHT_UNITS = {"m": "meters", "g": "grams", "s": "seconds", "h": "hours", "L": "liters", "l": "liters"}
_SIZES = r"\\(?:[bB]igg?[lrm]?|displaystyle|textstyle)(?![a-z])|\\(?:left|right)(?![a-z])\.?"

_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\\!\s*", ""),
        (_SIZES, ""),
        (r"\\\$", "¤"),
        (r"\$ ?, ?\$", "; "),
        (r"^\s*(-?)\$(?=[^$]*$)", r"\1¤"),
        (r"\$", ""),
        (r"(?<!\\)\\[\(\)\[\]]", ""),
        (r"(?<=[0-9])(?:\\,|\\ |\{,\}|\{\\,\})(?=[0-9]{3}(?![0-9]))", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-z])", " "),
        (r"\\[dtc](frac|binom)", r"\\\1"),
        (r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9])\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z])", r"\1{\2}"),
        (r"\\sqrt\s*([0-9]+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-z]))|\\degree(?![a-z])", " degrees "),
        (r"degrees\s+C(?:elsius)?(?![A-Za-z])", "celsius"),
        (r"degrees\s+F(?:ahrenheit)?(?![A-Za-z])", "fahrenheit"),
        (r"(\\(?:sin|cos|tan|cot|sec|csc)) ?[({]?([0-9]+) ?degrees ?[)}]?", r"\1(\\frac{\2\\pi}{180})"),
        (r"\\%|(?<=[0-9}])\s*(?:per ?cent)(?![a-z])", "%"),
        (r"\\(?:leqslant|leqq|leq)(?![a-z])", r"\\le"),
        (r"\\(?:geqslant|geqq|geq)(?![a-z])", r"\\ge"),
        (r"\\neq(?![a-z])", r"\\ne"),
        (r"\\lt(?![a-z])", "<"),
        (r"\\gt(?![a-z])", ">"),
        (r"\\[lr]?vert(?![a-z])", "|"),
        (r"\\lbrace(?![a-z])", r"\\{"),
        (r"\\rbrace(?![a-z])", r"\\}"),
        (r"\\varnothing(?![a-z])|\\\{\s*\\\}", r"\\emptyset"),
        (r"\\langle(?![a-z])", "("),
        (r"\\rangle(?![a-z])", ")"),
        (r"\\(?:euro|EUR)(?![a-z])", "€"),
        (r"\\pounds(?![a-z])", "£"),
        (r"\{([^{}]*)\\choose(?![a-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"_\s*\{\s*\\(max|min)\s*\}", r"_{\1}"),
        (r"\*\*", "^"),
        (r"_\s*\{\s*([0-9A-Za-z])\s*\}", r"_\1"),
        (r"(\\log) ?_ ?([0-9A-Za-z]) ?(?=[0-9A-Za-z{(\\])", r"\1_{\2}"),
        (r"[,;]\s+", ";"),
    )
)
_UPRIGHT = re.compile(_FONTS + r"\s*\{(?:\s|~|\\,)*([mgshlL])(/[sh])?\s*\}")
_FONT = re.compile(_FONTS + r"\s*\{([^{}]*)\}")
_SPACE = re.compile(r"\s+")
_LOOSE_SPACE = re.compile(
    r"(?<![0-9A-Za-z)}]) |(?<=[)}]) (?![A-Za-z]{2})| (?![0-9A-Za-z])"
    r"|(?:(?<=[0-9])|(?<![A-Za-z][A-Za-z])(?<=[A-Za-z])) (?=[A-DF-Za-df-z](?![A-Za-z]))"
)


def normal_form(text: str) -> str:
    """Text without what says nothing: dollar signs, font commands, spacing, a full stop at the end. Keeps a space between words."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda run: f"^{{{run[0].translate(_SUPERSCRIPTS)}}}", text).translate(_TABLE)
    if not text.isascii():
        text = re.sub(r"[^\x00-\x7f]", _as_ascii, text)
    if "\\" in text:
        text = _without_fonts(text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _LOOSE_SPACE.sub("", _SPACE.sub(" ", text)).strip()
    return text if text.endswith("..") else text.removesuffix(".").strip()


def _as_ascii(match: re.Match[str]) -> str:
    """Digits of any script, and letters and digits of the mathematical alphabets."""
    value = unicodedata.decimal(match[0], None)
    plain = str(value) if value is not None else unicodedata.normalize("NFKC", match[0])
    mathematical = 0x1D400 <= ord(match[0]) <= 0x1D7FF
    return plain if value is not None or mathematical else match[0]


def _without_fonts(text: str) -> str:
    text = _UPRIGHT.sub(_spelt_unit, text)
    for _ in range(MAX_DEPTH):
        bare = _FONT.sub(r" \1 ", text)
        if bare == text:
            break
        text = bare
    return text


def _spelt_unit(match: re.Match[str]) -> str:
    """An upright letter after a number is a unit, elsewhere a letter."""
    before = match.string[max(0, match.start() - 12) : match.start()].rstrip(" ~\\,")
    if before[-1:].isdigit() or before.endswith(("}", ")", "\\pi")):
        over = f"/{_UPRIGHT_UNITS[match[2][1]]}" if match[2] else ""
        return f" {_UPRIGHT_UNITS[match[1]]}{over} "
    return f" {match[1]}{match[2] or ''} "
