"""Two answers compared by their structure, down to single values. Every rule errs towards 0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from rlvr_core.reward.normal_form import normal_form
from rlvr_core.reward.numbers import as_number, in_latex
from rlvr_core.reward.refusal import refuse
from rlvr_core.reward.structure import Form, read, read_as_list, refuse_structure
from rlvr_core.reward.symbolic import Verdict, compare_relations, compare_values, variables
from rlvr_core.reward.units import split_unit

MAX_PARTS = 64
"""Parts of the longest unordered list that is compared."""
EQUAL = Verdict(1.0, "ok", "equal text")
_NAME = re.compile(
    r"m?\\?[A-Za-z]+(?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z\\ ]+\}))?(?: ?[A-Z]+(?:_[0-9])?)?'?(?:\([A-Za-z0-9]+(?:[,;][A-Za-z0-9]+)*\))?"
    r"|\([a-z](?:[,;][a-z])+\)"
)
"""What an answer may be called: ``x``, ``f(x)``, ``P(A)``, ``\\angle ABC``, ``(x,y)``."""
_WORDS = re.compile(r"(?=.*[A-Za-z]{3}|no$|No$)[A-Za-z0-9]+(?:[ -][A-Za-z0-9]+){0,5}")
_LETTERS = re.compile(r"[A-Za-z]{3,}|[A-Z]{2,}")
"""Words, names and sequences more likely than products: HHT is not HTH."""
_SIGN = re.compile(r"[A-Z]|\\emptyset|\\mathbb\{[A-Z]\}")
"""What is itself and nothing else: the letter of a choice, the empty set, a set of numbers."""
_BASE = re.compile(r"(?P<digits>-?[0-9A-Fa-f]+)_(?P<base>[0-9]|\{[0-9]+\})")
_CLOCK = re.compile(r"[0-9]+(?: ?: ?[0-9]+)+")
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


@lru_cache(maxsize=16_384)
def compare(gold: str, answer: str) -> Verdict:
    """Whether two answers, as they stand in LaTeX or plain text, are the same."""
    g, a = normal_form(gold), normal_form(answer)
    if not a:
        return Verdict(0.0, "no_answer", "the answer is empty")
    if g == a:
        return EQUAL
    for side, text in (("gold", g), ("answer", a)):
        why = refuse_structure(text)
        if why:
            return _refused(side, why)
    gold_form, answer_form = read(g), read(a)
    if gold_form.kind == "list" != answer_form.kind:
        answer_form = read_as_list(a)
    return _forms(*_without_names(gold_form, answer_form))


def not_understood(gold: str) -> str:
    """Why this gold can be compared as text alone, or not at all; empty where it is understood."""
    text = normal_form(gold)
    if not text:
        return "the gold is empty"
    why = refuse_structure(text)
    if why:
        return f"the gold {why}"
    form = read(text)
    verdict = _forms(form, form)
    return "" if verdict.value == 1.0 else verdict.reason


def _refused(side: str, why: str) -> Verdict:
    return Verdict(0.0, "error" if side == "gold" else "unparsed", f"the {side} {why}")


def _forms(gold: Form, answer: Form) -> Verdict:
    if gold.kind != answer.kind:
        return _other_kind(gold, answer)
    if gold.kind == "value":
        return _values(gold.text, answer.text)
    if gold.kind == "relation":
        return _relations(gold, answer)
    if len(gold.parts) != len(answer.parts):
        return Verdict(0.0, "ok", f"{len(answer.parts)} parts for {len(gold.parts)}")
    if gold.kind in ("list", "union"):
        return _unordered(gold.parts, answer.parts)
    if gold.marks != answer.marks:
        return Verdict(0.0, "ok", "other brackets or another shape")
    return _all(_forms(g, a) for g, a in zip(gold.parts, answer.parts, strict=True))


def _other_kind(gold: Form, answer: Form) -> Verdict:
    """A value against a list and the like; prose and code are told from answers."""
    words = any(_is_words(leaf) for leaf in _leaves(gold))
    odd = "" if words else next((why for leaf in _leaves(answer) if (why := refuse(split_unit(leaf)[0]))), "")
    return _refused("answer", odd) if odd else Verdict(0.0, "ok", f"a {answer.kind} for a {gold.kind}")


def _leaves(form: Form) -> Iterable[str]:
    return (leaf for part in form.parts for leaf in _leaves(part)) if form.parts else (form.text,)


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    for verdict in verdicts:
        if verdict.value != 1.0:
            return verdict
    return Verdict(1.0, "ok", "equal parts")


def _unordered(gold: Sequence[Form], answer: Sequence[Form]) -> Verdict:
    """Each part of the gold takes one of the answer's; since equality is transitive, the first that fits will do."""
    if len(gold) > MAX_PARTS:
        return Verdict(0.0, "unparsed", f"more than {MAX_PARTS} parts")
    left = list(answer)
    for part in gold:
        verdicts = []
        for place, candidate in enumerate(left):
            verdicts.append(_forms(part, candidate))
            if verdicts[-1].value == 1.0:
                del left[place]
                break
        else:
            return next((v for v in verdicts if v.status != "ok"), Verdict(0.0, "ok", "another list"))
    return Verdict(1.0, "ok", "equal lists")


def _without_names(gold: Form, answer: Form) -> tuple[Form, Form]:
    """Leave out ``x=`` where only one of the two says it."""
    if _has_relation(gold) and not _has_relation(answer):
        return _unnamed(gold), answer
    if _has_relation(answer) and not _has_relation(gold):
        return gold, _unnamed(answer)
    return gold, answer


def _has_relation(form: Form) -> bool:
    return form.kind == "relation" or (form.kind == "list" and any(part.kind == "relation" for part in form.parts))


def _unnamed(form: Form) -> Form:
    """``x=1;x=2`` or ``x=1;2`` as ``1;2``; unchanged where several names, or anything but names, stand there."""
    parts = form.parts if form.kind == "list" else (form,)
    relations = [part for part in parts if part.kind == "relation"]
    names = {re.sub(r"_[0-9]$", "", part.parts[0].text) for part in relations}
    simple = all(part.marks == ("=",) and _NAME.fullmatch(part.parts[0].text) for part in relations)
    if not simple or len(names) != 1 or parts[0].kind != "relation":
        return form
    bare = [part.parts[1] if part.kind == "relation" else part for part in parts]
    if form.kind != "list":
        return bare[0]
    return Form("list", form.text, tuple(leaf for part in bare for leaf in (part.parts if part.kind == "list" else (part,))))


def _relations(gold: Form, answer: Form) -> Verdict:
    """The same chain of signs and sides, in either direction; single ones also by their solutions."""
    chains = [(answer.marks, answer.parts), (tuple(_FLIPPED.get(sign, sign) for sign in answer.marks[::-1]), answer.parts[::-1])]
    verdicts = [
        _all(_forms(g, a) for g, a in zip(gold.parts, sides, strict=True)) for signs, sides in chains if signs == gold.marks
    ]
    if any(verdict.value == 1.0 for verdict in verdicts):
        return Verdict(1.0, "ok", "equal sides")
    if len(gold.marks) > 1 or len(answer.marks) > 1 or not _scalar(gold) or not _scalar(answer):
        return Verdict(0.0, "ok", "another relation")
    for side, form in (("gold", gold), ("answer", answer)):
        for part in form.parts:
            why = refuse(part.text)
            if why:
                return _refused(side, why)
    if variables(gold.text) != variables(answer.text):
        return Verdict(0.0, "ok", "a relation of other names")
    return compare_relations(
        (gold.parts[0].text, gold.marks[0], gold.parts[1].text), (answer.parts[0].text, answer.marks[0], answer.parts[1].text)
    )


def _scalar(form: Form) -> bool:
    return all(part.kind == "value" for part in form.parts)


def _values(gold: str, answer: str) -> Verdict:
    """Two single values. Also asked of a gold and itself, so that no two texts are equal here without being understood."""
    (g, unit), (a, other) = split_unit(gold), split_unit(answer)
    if unit and other and unit != other:
        return Verdict(0.0, "ok", f"in {other}, not {unit}")
    numbers = as_number(g), as_number(a)
    if numbers[0] is not None and numbers[1] is not None:
        equal = numbers[0] == numbers[1]
        return Verdict(float(equal), "ok", "equal numbers" if equal else "another number")
    if any(_SIGN.fullmatch(text) for text in (g, a)):
        return Verdict(float(g == a), "ok", "equal text" if g == a else "another expression")
    if any(_is_words(text) for text in (g, a)) or all(_LETTERS.fullmatch(text) for text in (g, a)):
        return _words(g, a)
    for side, number, text in (("gold", numbers[0], g), ("answer", numbers[1], a)):
        why = refuse(text) if number is None else ""
        if why:
            return _refused(side, why)
    if any(number is not None and variables(text) - {"e", "i"} for number, text in zip(numbers, (a, g), strict=True)):
        return Verdict(0.0, "ok", "a number against an expression with variables")
    g, a = (text if number is None else in_latex(number) for number, text in zip(numbers, (g, a), strict=True))
    return compare_values(g, a)


def _is_words(text: str) -> bool:
    """Plain words, a number in another base, a clock or a ratio: what is compared as text."""
    return bool(_BASE.fullmatch(text) or _CLOCK.fullmatch(text) or (_WORDS.fullmatch(text) and "word" in refuse(text)))


def _words(gold: str, answer: str) -> Verdict:
    g, a = (re.sub(r"(?<![A-Za-z])[A-Z](?=[a-z])", lambda letter: letter[0].lower(), text) for text in (gold, answer))
    equal = g.replace(" :", ":").replace(": ", ":") == a.replace(" :", ":").replace(": ", ":")
    if not equal and not _is_words(gold):
        return _refused("answer", refuse(answer) or "is no mathematics")
    return Verdict(float(equal), "ok", "equal text" if equal else "another text")
