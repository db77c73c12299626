"""How a problem becomes the policy's prompt: template, chat template, token ids. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from rlvr_core.errors import DataError, ModelError, SpecError, nearest
from rlvr_core.options import Options, option
from rlvr_core.records import Example
from rlvr_core.tasks.sequences import kept

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

_PIECES = re.compile(r"\{\{|\}\}|\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}")
SHOWN = 3
"""Examples that an error spells out."""


class PromptTooLong(DataError):
    """A prompt has more tokens than ``max_length``."""


class Shot(Options):
    """One worked example in front of the problem."""

    prompt: str = option(description="a problem; the template goes around it too", min_length=1)
    completion: str = option(description="what the policy should have written; follows as it stands", min_length=1)


class PromptOptions(Options):
    r"""The spec's section ``prompt``.

    In ``template``, ``{name}`` stands for the problem (``{prompt}``), for ``{system}`` or for a column of the row; ``{{`` and ``}}``
    write single braces, and any other brace is itself, so that ``\boxed{}`` may be written as it is.
    """

    template: str | None = option(
        None,
        "text around the problem, as 'Question: {prompt}'; columns of the row may stand in braces too; null: the problem alone",
    )
    system: str | None = option(None, "system message of a chat, or the value of {system} in the template", min_length=1)
    few_shot: list[Shot] = option(
        [],
        "worked examples before the problem, each with a prompt and a completion: turns of a chat, or text with few_shot_separator after "
        "each; mind that none is an evaluation problem",
    )
    few_shot_separator: str = option("\n\n", "what stands after each worked example where there is no chat template")
    chat: Literal["auto", "on", "off"] = option(
        "auto", "the tokenizer's chat template: auto uses it if there is one, on requires it"
    )
    max_length: int | None = option(None, "tokens of a prompt at most; null: no limit", ge=1)
    too_long: Literal["error", "drop"] = option(
        "error", "a problem whose prompt is longer than max_length: stop the run, or leave it out"
    )

    @field_validator("template")
    @classmethod
    def _has_a_place(cls, template: str | None) -> str | None:
        if template is not None and not placeholders(template):
            raise ValueError("holds no {prompt} (nor any other column in braces), so every problem would look the same")
        return template

    def inert(self) -> Mapping[str, str]:
        """A system message that goes nowhere; a rule for long prompts without a limit."""
        reasons = {}
        if self.chat == "off" and not self.system_in_template:
            reasons["system"] = "chat is off and the template does not hold {system}"
        if not self.few_shot or self.chat == "on":
            reasons["few_shot_separator"] = (
                "few_shot is empty" if not self.few_shot else "chat is on, where worked examples are turns"
            )
        if self.max_length is None:
            reasons["too_long"] = "there is no max_length"
        return reasons

    @property
    def system_in_template(self) -> bool:
        """Whether the template, not a message of its own, carries the system text."""
        return self.template is not None and "system" in placeholders(self.template)


def placeholders(template: str) -> list[str]:
    """Names that stand in braces."""
    return [match[1] for match in _PIECES.finditer(template) if match[1]]


def render(example: Example, options: PromptOptions, chat: bool) -> str | list[Message]:
    """The prompt as text, or as messages where a chat template follows.

    Only the template is formatted: braces in the problem, or in columns, stay as they are. Raises SpecError for a placeholder
    that names nothing, and for options that contradict the example.
    """
    if not isinstance(example.prompt, str):
        return _with_shots(_with_system(_given_messages(example, options), options), options)
    text = _framed(example, options)
    if chat:
        return _with_shots(_with_system([{"role": "user", "content": text}], options), options)
    return "".join(_framed_shot(shot, options) + shot.completion + options.few_shot_separator for shot in options.few_shot) + text


def _framed(example: Example, options: PromptOptions) -> str:
    assert isinstance(example.prompt, str)  # messages come framed
    return example.prompt if options.template is None else _fill(options.template, example, options)


def _framed_shot(shot: Shot, options: PromptOptions) -> str:
    return _framed(Example("prompt.few_shot", shot.prompt, ""), options)


def _with_shots(messages: list[Message], options: PromptOptions) -> list[Message]:
    """Worked examples as turns, after a system message."""
    shots = [
        {"role": role, "content": text}
        for shot in options.few_shot
        for role, text in (("user", _framed_shot(shot, options)), ("assistant", shot.completion))
    ]
    first = 1 if messages[0]["role"] == "system" else 0
    return [*messages[:first], *shots, *messages[first:]]


def uses_chat(tokenizer: PreTrainedTokenizerBase, options: PromptOptions) -> bool:
    """Whether the tokenizer's chat template is used. Raises ModelError where it is required and missing."""
    has_template = bool(tokenizer.chat_template)
    if options.chat == "on" and not has_template:
        raise ModelError(
            f"prompt.chat is on, but the tokenizer{_of(tokenizer)} has no chat template; use a chat model, or chat: off with a template"
        )
    return has_template and options.chat != "off"


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, options: PromptOptions) -> tuple[int, ...]:
    """The prompt's token ids, as the policy gets them; the generation prompt of a chat is included.

    Raises PromptTooLong beyond ``max_length`` whatever ``too_long`` says (``fitting`` drops), ModelError for a tokenizer that
    makes nothing of the prompt, and what ``render`` raises.
    """
    chat = uses_chat(tokenizer, options)
    _refuse_without_chat(example, options, chat, tokenizer)
    prompt = render(example, options, chat)
    ids = _encode_text(prompt, tokenizer) if isinstance(prompt, str) else _encode_chat(prompt, tokenizer, options)
    if not ids:
        raise ModelError(
            f"the tokenizer{_of(tokenizer)} ({type(tokenizer).__name__}) encodes the prompt of '{example.id}' to no tokens at all, "
            "so it is not the one its vocabulary was made for; load it with rlvr_core.policy.loading.load_tokenizer"
        )
    if options.max_length is not None and len(ids) > options.max_length:
        raise PromptTooLong(
            f"the prompt of '{example.id}' has {len(ids)} tokens, more than prompt.max_length ({options.max_length}); "
            "raise it, or set prompt.too_long: drop"
        )
    return ids


def fitting(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, options: PromptOptions) -> Sequence[Example]:
    """The examples whose prompts fit ``max_length``; all of them, unread, without a limit.

    Under ``too_long: error``, raises DataError naming how many do not fit. Raises DataError too where none fits.
    """
    return examples if options.max_length is None else kept(examples, lambda some: _fitting(some, tokenizer, options))


def _fitting(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, options: PromptOptions) -> list[Example]:
    fit, dropped = [], []
    for example in examples:
        try:
            encode(example, tokenizer, options)
        except PromptTooLong:
            dropped.append(example.id)
        else:
            fit.append(example)
    if dropped and (options.too_long == "error" or not fit):
        names = ", ".join(dropped[:SHOWN]) + (" ..." if len(dropped) > SHOWN else "")
        way_out = "raise it" if not fit else "raise it, or set prompt.too_long: drop"
        raise DataError(
            f"{len(dropped)} of {len(dropped) + len(fit)} prompts have more tokens than prompt.max_length ({options.max_length}): "
            f"{names}; {way_out}"
        )
    return fit


def _fill(template: str, example: Example, options: PromptOptions) -> str:
    values: dict[str, Any] = {**example.columns, "prompt": example.prompt}
    if options.system is not None:
        values["system"] = options.system

    def piece(match: re.Match[str]) -> str:
        name = match[1]
        return match[0][0] if name is None else _value(name, values, example)

    return _PIECES.sub(piece, template)


def _value(name: str, values: Mapping[str, Any], example: Example) -> str:
    if name not in values:
        raise SpecError(
            f"prompt.template: {{{name}}} names no column of '{example.id}'; {nearest(name, values)} "
            f"(for braces as such, write {{{{{name}}}}})"
        )
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise SpecError(f"prompt.template: {{{name}}} is {type(value).__name__} in '{example.id}', not text or a number")
    return str(value)


def _given_messages(example: Example, options: PromptOptions) -> list[Message]:
    if options.template is not None:
        raise SpecError(
            f"prompt.template formats text, but the prompt of '{example.id}' is a list of messages; remove the template"
        )
    return [dict(message) for message in example.prompt if not isinstance(message, str)]


def _with_system(messages: list[Message], options: PromptOptions) -> list[Message]:
    if options.system is None or options.system_in_template:
        return messages
    if messages[0]["role"] == "system":
        raise SpecError("prompt.system: the task's messages begin with a system message of their own; remove prompt.system")
    return [{"role": "system", "content": options.system}, *messages]


def _refuse_without_chat(example: Example, options: PromptOptions, chat: bool, tokenizer: PreTrainedTokenizerBase) -> None:
    """What only a chat template can carry out."""
    if chat:
        return
    reason = "prompt.chat is off" if options.chat == "off" else f"the tokenizer{_of(tokenizer)} has no chat template"
    if not isinstance(example.prompt, str):
        raise SpecError(
            f"the prompt of '{example.id}' is a list of messages, which needs a chat template, but {reason}; "
            "use a chat model or text prompts"
        )
    if options.system is not None and not options.system_in_template:
        raise SpecError(
            f"prompt.system has no effect: {reason} and prompt.template does not hold {{system}}; add it there or remove prompt.system"
        )


def _encode_text(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """With the special tokens the tokenizer puts in front; without an end token behind (it would end the completion before it
    began) and without a second begin token where the text brings one."""
    bare: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not bare or (tokenizer.bos_token and text.startswith(tokenizer.bos_token)):
        return tuple(bare)
    full: list[int] = tokenizer(text, add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(bare), -1, -1):
        if full[start : start + len(bare)] == bare:
            return tuple(full[: start + len(bare)])
    return tuple(full)


def _encode_chat(messages: list[Message], tokenizer: PreTrainedTokenizerBase, options: PromptOptions) -> tuple[int, ...]:
    """The chat template writes special tokens itself, so none are added. A last message of the assistant is continued."""
    from jinja2 import TemplateError

    continued = messages[-1]["role"] == "assistant"
    try:
        ids: Any = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False, add_generation_prompt=not continued, continue_final_message=continued
        )
    except (TemplateError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        hint = "; remove prompt.system or put it into prompt.template as {system}" if options.system is not None else ""
        raise ModelError(
            f"the chat template{_of(tokenizer)} refuses messages of the roles {roles}: {' '.join(str(error).split())}{hint}"
        ) from error
    return tuple(ids)


def _of(tokenizer: PreTrainedTokenizerBase) -> str:
    return f" of {tokenizer.name_or_path}" if tokenizer.name_or_path else ""
