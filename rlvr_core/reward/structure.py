r"""What kind of answer a normal form is: one value, an unordered list, a tuple or interval, a union, a matrix, a relation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rlvr_core.reward.normal_form import MAX_DEPTH
from rlvr_core.reward.numbers import GROUPED

MAX_SIGNS = 150
"""Commas, relation signs and the like in one answer."""

Kind = Literal["value", "list", "row", "union", "matrix", "relation"]


@dataclass(frozen=True)
class Form:
    """An answer taken apart. ``marks`` holds a row's brackets, a matrix' shape, a relation's signs."""

    kind: Kind
    text: str
    parts: tuple[Form, ...] = ()
    marks: tuple[str, ...] = ()


_TOKENS = re.compile(
    r"(?P<open>\\begin\{[a-zA-Z]*\*?\}|\\\{|\\l(?:floor|ceil)(?![a-z])|[{(\[])"
    r"|(?P<close>\\end\{[a-zA-Z]*\*?\}|\\\}|\\r(?:floor|ceil)(?![a-z])|[})\]])"
    r"|(?P<sign>\\(?:le|ge|ne|in|cup|pm)(?![a-zA-Z])|[,;=<>&]|\\\\)|\\[A-Za-z]+|\\."
)
_CONNECTIVE = re.compile(r"(?<![A-Za-z])(?:[,;] ?| )?(?:and|or)(?![A-Za-z]) ?")
_MATRIX = re.compile(r"\\begin\{[pbB]?matrix\}(.*)\\end\{[pbB]?matrix\}", re.DOTALL)
_GROUPED = re.compile(rf"[^0-9,(\[{{]*{GROUPED}(?![0-9,])[^,]*", re.DOTALL)
_MEMBER = re.compile(r"[A-Za-z]\\in(?![a-z])")
_RELATIONS = ("=", "<", ">", r"\le", r"\ge", r"\ne")


def read(text: str) -> Form:
    """The normal form taken apart, as deep as lists, rows and unions go."""
    return _read(_CONNECTIVE.sub(";", text) if _CONNECTIVE.search(text) else text, 0)


def read_as_list(text: str) -> Form:
    """The same, where every comma separates: ``100,200`` is no number."""
    return read(re.sub(",", ";", text))


def refuse_structure(text: str) -> str:
    """Why a normal form cannot be taken apart; empty where it can."""
    depth = signs = 0
    for token in _TOKENS.finditer(text):
        depth += bool(token["open"]) - bool(token["close"])
        signs += bool(token["sign"])
        if depth > MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} deep"
        if depth < 0:
            break
        if signs > MAX_SIGNS:
            return f"has more than {MAX_SIGNS} parts"
    return "has brackets that do not match" if depth else ""


def _read(text: str, depth: int) -> Form:
    text = text.strip()
    if depth > MAX_DEPTH:
        return Form("value", text)
    parts = _listed(text, depth == 0)
    if len(parts) > 1:
        return Form("list", text, tuple(form for part in parts for form in _members(_read(part, depth + 1))))
    member = _MEMBER.match(text)
    if member:
        return _read(text[member.end() :], depth + 1)
    for form in (_bracketed, _union, _matrix, _relation, _both_signs):
        found = form(text, depth)
        if found is not None:
            return found
    return Form("value", text)


def _members(form: Form) -> tuple[Form, ...]:
    """``0,\\pm 2`` has three parts."""
    return form.parts if form.kind == "list" and "\\pm" in form.text and not form.marks else (form,)


def split(text: str, signs: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(parts, the signs between them), at the outermost level."""
    parts, found, depth, start = [], [], 0, 0
    for token in _TOKENS.finditer(text):
        depth += bool(token["open"]) - bool(token["close"])
        if depth == 0 and token["sign"] in signs:
            parts.append(text[start : token.start()].strip())
            found.append(token["sign"])
            start = token.end()
    return [*parts, text[start:].strip()], found


def _listed(text: str, outermost: bool) -> list[str]:
    """Parts between semicolons, and between commas that do not group the digits of one number."""
    parts, _ = split(text, (";",))
    may_group = outermost or len(parts) > 1
    return [piece for part in parts for piece in ([part] if may_group and _GROUPED.fullmatch(part) else split(part, (",",))[0])]


def _bracketed(text: str, depth: int) -> Form | None:
    start = 2 if text.startswith("\\{") else 1
    end = 2 if text.endswith("\\}") else 1
    opened, closed, inner = text[:start], text[-end:], text[start:-end]
    if opened not in ("(", "[", "{", "\\{") or closed not in (")", "]", "}", "\\}") or not _encloses(text):
        return None
    if (opened, closed) in (("(", ")"), ("{", "}")) and len(_listed(inner, False)) == 1:
        return _read(inner, depth + 1)
    if "{" in (opened, closed):
        return None
    parts = _listed(inner, False)
    if opened == "\\{" and closed == "\\}":
        forms = tuple(form for part in parts for form in _members(_read(part, depth + 1)))
        return forms[0] if len(forms) == 1 else Form("list", text, forms, ("{", "}"))
    return Form("row", text, tuple(_read(part, depth + 1) for part in parts), (opened, closed)) if len(parts) > 1 else None


def _encloses(text: str) -> bool:
    """Whether the first bracket is closed by the last."""
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += bool(token["open"]) - bool(token["close"])
        if depth == 0:
            return token.end() == len(text)
    return False


def _union(text: str, depth: int) -> Form | None:
    parts, _ = split(text, (r"\cup",))
    return Form("union", text, tuple(_read(part, depth + 1) for part in parts)) if len(parts) > 1 else None


def _matrix(text: str, depth: int) -> Form | None:
    match = _MATRIX.fullmatch(text)
    if match is None or "\\begin" in match[1]:
        return None
    rows = [split(row, ("&",))[0] for row in split(match[1], ("\\\\",))[0] if row]
    entries = tuple(_read(entry, depth + 1) for row in rows for entry in row)
    return Form("matrix", text, entries, tuple(str(len(row)) for row in rows))


def _relation(text: str, depth: int) -> Form | None:
    sides, signs = split(text, _RELATIONS)
    return Form("relation", text, tuple(_read(side, depth + 1) for side in sides), tuple(signs)) if signs else None


def _both_signs(text: str, depth: int) -> Form | None:
    if len(re.findall(r"\\pm(?![a-z])", text)) != 1:
        return None
    return Form("list", text, tuple(_read(re.sub(r"\\pm ?(?![a-z])", sign, text), depth + 1) for sign in "+-"))
