"""The side of the program: runs it, then calls what the examiner asks for. Nothing here is trusted once the program runs."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable
from functools import partial
from json import loads
from operator import getitem
from typing import Any

from rlvr_core.reward.sandbox.cage import enter
from rlvr_core.reward.sandbox.plain import Channel, decode, encode


def main(channel: int) -> None:
    """Standard input: {limits, folder, prompt, source}."""
    task = loads(_everything(0))
    enter(task["limits"], task["folder"], (channel,))
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    Program(Channel(channel), task["prompt"], task["source"]).serve()


class Program:
    """The program's names, and the objects that the examiner holds handles of."""

    def __init__(self, channel: Channel, prompt: str, source: str) -> None:
        self.channel = channel
        self.names: dict[str, Any] = {"__name__": "program", "__builtins__": builtins}
        self.objects: list[Any] = []
        self.prompt, self.source = prompt, source

    def serve(self) -> None:
        """Run the program, then answer until the examiner is gone."""
        self.channel.send(self.attempt(self.run))
        while True:
            request = self.channel.receive()
            self.channel.send(self.attempt(partial(self.answer, request)))

    def attempt(self, do: Callable[[], Any]) -> dict[str, Any]:
        """What came of it, as a message."""
        try:
            return {"value": encode(do(), self.keep)}
        except BaseException as error:  # SystemExit of the program, too, is a failure of the program
            return {"raised": [type(error).__name__, str(error)[:500]]}

    def run(self) -> None:
        if self.prompt:
            exec(compile(self.prompt, "<prompt>", "exec"), self.names)  # noqa: S102 - what this process is for
        exec(compile(self.source, "<program>", "exec"), self.names)  # noqa: S102 - as above

    def answer(self, request: dict[str, Any]) -> Any:
        """One request: the end, or something of a name or a kept object."""
        if "end" in request:
            return None
        subject = self.found(request)
        positional = [decode(argument, self.kept) for argument in request.get("args", ())]
        named = {key: decode(argument, self.kept) for key, argument in request.get("kwargs", {}).items()}
        do: Callable[..., Any] = subject if request["do"] == "call" else partial(_DEEDS[request["do"]], subject)
        return do(*positional, **named)

    def found(self, request: dict[str, Any]) -> Any:
        if "handle" in request:
            return self.objects[request["handle"]]
        if request["name"] not in self.names:
            raise NameError(f"the program defines no '{request['name']}'")
        return self.names[request["name"]]

    def keep(self, value: Any) -> Any:
        self.objects.append(value)
        return {"handle": [len(self.objects) - 1, type(value).__name__]}

    def kept(self, tag: str, content: Any) -> Any:
        """A handle that comes back, or a function of the tests."""
        return self.objects[content] if tag == "handle" else self.function(content)

    def function(self, number: int) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.channel.send({"function": number, "args": [encode(argument, self.keep) for argument in args]})
            reply = self.channel.receive()
            if "raised" in reply:
                raise getattr(builtins, reply["raised"][0], RuntimeError)(reply["raised"][1])
            return decode(reply["value"], self.kept)

        return call


_DEEDS: dict[str, Callable[..., Any]] = {"get": getattr, "item": getitem, "bool": bool, "len": len, "iter": list, "str": str}


def _everything(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)
