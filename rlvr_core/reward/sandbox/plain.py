"""Values that cross between examiner and program: data alone, as JSON. Nothing that arrives can act, so nothing can lie but in its value.

Numbers, text and the builtin containers; subclasses arrive as their base. Anything else the program keeps and hands out a handle for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from json import dumps, loads
from typing import Any

MAX_MESSAGE = 32 << 20
"""Bytes of a message at most."""
MAX_ITEMS = 1_000_000
"""Items of an iterator that are taken."""
_SAFE_INT = 2**53

Keep = Callable[[Any], Any]
"""What to do with a value that is no plain data: its encoding, or an exception."""


class Gone(BaseException):
    """The other side is no more. No ``except Exception`` of a test swallows it."""


class Channel:
    """Messages over a socket: four bytes of length, then JSON."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, message: Any) -> None:
        """Raises Gone where nobody is there any more, ValueError where the message is too large."""
        body = dumps(message).encode()
        if len(body) > MAX_MESSAGE:
            raise ValueError(f"a value of {len(body)} bytes is more than the {MAX_MESSAGE} that may leave")
        view = memoryview(len(body).to_bytes(4, "big") + body)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            raise Gone from None

    def receive(self) -> Any:
        """The next message. Raises Gone at the end, or where what comes is no message."""
        length = int.from_bytes(self._exactly(4), "big")
        if length > MAX_MESSAGE:
            raise Gone
        try:
            return loads(self._exactly(length))
        except (ValueError, RecursionError):
            raise Gone from None

    def _exactly(self, size: int) -> bytes:
        parts, left = [], size
        while left:
            try:
                part = os.read(self._fd, min(left, 1 << 20))
            except OSError:
                raise Gone from None
            if not part:
                raise Gone
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


def encode(value: Any, keep: Keep) -> Any:
    """A value as JSON has it. ``keep`` encodes what is no plain data. Raises RecursionError for what holds itself."""
    if value is None or value is True or value is False:
        return value
    for base, code in _ENCODERS:
        if isinstance(value, base):
            return code(value, keep)
    for module, name in (("fractions", "Fraction"), ("decimal", "Decimal"), *(("datetime", n) for n in _DATES)):
        if module in sys.modules and type(value) is getattr(sys.modules[module], name):
            return {name: str(value) if module != "datetime" else _date(value)}
    return keep(value)


def decode(data: Any, kept: Callable[[str, Any], Any]) -> Any:
    """The value again. ``kept`` gives what an encoding by ``keep`` stands for. Raises ValueError for what is no encoding."""
    if isinstance(data, list):
        return [decode(item, kept) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError("no value has this encoding")
    [(tag, content)] = data.items()
    return _DECODERS[tag](content, kept) if tag in _DECODERS else kept(tag, content)


def _items(values: Any, keep: Keep) -> list[Any]:
    return [encode(value, keep) for value in values]


def _pairs(values: dict[Any, Any], keep: Keep) -> list[Any]:
    return [[encode(key, keep), encode(value, keep)] for key, value in dict.items(values)]


def _taken(values: Iterator[Any], keep: Keep) -> list[Any]:
    found = []
    for value in values:
        found.append(encode(value, keep))
        if len(found) > MAX_ITEMS:
            raise ValueError(f"an iterator of more than {MAX_ITEMS} items may not leave")
    return found


def _int(value: int, _: Keep) -> Any:
    whole = int(value)
    return whole if -_SAFE_INT < whole < _SAFE_INT else {"int": hex(whole)}


_ENCODERS: tuple[tuple[Any, Callable[[Any, Keep], Any]], ...] = (
    (int, _int),
    (float, lambda value, _: float(value)),
    (str, lambda value, _: str.__str__(value)),
    (list, lambda value, keep: _items(list.__iter__(value), keep)),
    (tuple, lambda value, keep: {"tuple": _items(tuple.__iter__(value), keep)}),
    (dict, lambda value, keep: {"dict": _pairs(value, keep)}),
    (frozenset, lambda value, keep: {"frozenset": _items(value, keep)}),
    (set, lambda value, keep: {"set": _items(value, keep)}),
    (complex, lambda value, _: {"complex": [value.real, value.imag]}),
    (bytes, lambda value, _: {"bytes": bytes.hex(value)}),
    (bytearray, lambda value, _: {"bytearray": bytearray.hex(value)}),
    (range, lambda value, _: {"range": [value.start, value.stop, value.step]}),
    (type({}.keys()), lambda value, keep: {"keys": _items(value, keep)}),
    (type({}.values()), lambda value, keep: {"values": _items(value, keep)}),
    (type({}.items()), lambda value, keep: {"items": _items(value, keep)}),
    (Iterator, lambda value, keep: {"iterator": _taken(value, keep)}),
)

_DECODERS: dict[str, Callable[[Any, Callable[[str, Any], Any]], Any]] = {
    "int": lambda content, _: int(content, 16),
    "tuple": lambda content, kept: tuple(decode(content, kept)),
    "dict": lambda content, kept: {decode(key, kept): decode(value, kept) for key, value in content},
    "frozenset": lambda content, kept: frozenset(decode(content, kept)),
    "set": lambda content, kept: set(decode(content, kept)),
    "complex": lambda content, _: complex(*content),
    "bytes": lambda content, _: bytes.fromhex(content),
    "bytearray": lambda content, _: bytearray.fromhex(content),
    "range": lambda content, _: range(*content),
    "keys": lambda content, kept: dict.fromkeys(decode(content, kept)).keys(),
    "values": lambda content, kept: dict(enumerate(decode(content, kept))).values(),
    "items": lambda content, kept: dict(decode(content, kept)).items(),
    "iterator": lambda content, kept: iter(decode(content, kept)),
    "Fraction": lambda content, _: __import__("fractions").Fraction(content),
    "Decimal": lambda content, _: __import__("decimal").Decimal(content),
    "date": lambda content, _: __import__("datetime").date.fromisoformat(content),
    "datetime": lambda content, _: __import__("datetime").datetime.fromisoformat(content),
    "time": lambda content, _: __import__("datetime").time.fromisoformat(content),
    "timedelta": lambda content, _: __import__("datetime").timedelta(*content),
}

_DATES = ("date", "datetime", "time", "timedelta")


def _date(value: Any) -> Any:
    return [value.days, value.seconds, value.microseconds] if type(value).__name__ == "timedelta" else value.isoformat()
