"""Messages between the pool and its workers: a length, then bytes. Requests are pickles, replies are JSON: nothing that a worker
says is executed here."""

from __future__ import annotations

import struct

_LENGTH = struct.Struct(">Q")


def frame(body: bytes) -> bytes:
    """A message as it goes over a pipe."""
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Puts messages together from what arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, arrived: bytes) -> list[bytes]:
        """The messages that are complete now, in order."""
        self._buffer += arrived
        messages, start = [], 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return messages
