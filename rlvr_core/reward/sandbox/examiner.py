"""The side of the tests: runs them here, where the program cannot reach, with stand-ins for what they call of the program."""

from __future__ import annotations

import ast
import builtins
import os
import sys
from collections.abc import Callable, Iterator
from json import dumps, loads
from typing import Any

from rlvr_core.reward.sandbox.cage import enter
from rlvr_core.reward.sandbox.plain import Channel, Gone, decode, encode


class BrokenExam(BaseException):
    """The tests cannot be used, whatever the program is."""


def main(channel: int) -> None:
    """Standard input: {limits, folder, prompt, setup, tests, entry_point}. Standard output: the verdict, after everything else."""
    exam = loads(_everything(0))
    verdict = os.dup(1)
    held = enter(exam["limits"], exam["folder"], (channel, verdict))
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    result = examine(Channel(channel), exam)
    os.write(verdict, dumps({**result, "held": held}).encode())
    os._exit(0)


def examine(channel: Channel, exam: dict[str, Any]) -> dict[str, Any]:
    """{verdict: passed | failed | broken, reason}. Passed: every test ran to its end, called the program, and it is still there."""
    program = Remote(channel)
    try:
        program.started()
        _run_tests(program, exam)
        program.ask({"end": True})
        if not program.calls:
            raise BrokenExam("the tests never call the program")
    except BrokenExam as why:
        return {"verdict": "broken", "reason": str(why)}
    except Gone:
        return {"verdict": "failed", "reason": "the program ended, or fell silent, before its tests did"}
    except BaseException as error:  # whatever ends a test is a failure of it
        return {"verdict": "failed", "reason": _said(error, exam["tests"])}
    return {"verdict": "passed", "reason": "all tests passed"}


class Remote:
    """The program from here: requests go out, plain data comes back."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.calls = 0
        self.gone = False
        self.functions: list[Callable[..., Any]] = []

    def started(self) -> None:
        """Wait until the program's own code has run. Raises what that raised."""
        self._reply()

    def ask(self, request: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """One request. Raises Gone, also when a test asks again after it swallowed that; else what the program raised."""
        if self.gone:
            raise Gone
        request["args"] = [encode(argument, self.lend) for argument in args]
        request["kwargs"] = {key: encode(argument, self.lend) for key, argument in kwargs.items()}
        try:
            self.channel.send(request)
            return self._reply()
        except Gone:
            self.gone = True
            raise

    def _reply(self) -> Any:
        while True:
            message = self.channel.receive()
            try:
                if "function" in message:
                    self.channel.send(self._lent(message["function"], message["args"]))
                elif "raised" in message:
                    kind, text = message["raised"]
                    break
                else:
                    return decode(message["value"], self.borrow)
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
                raise Gone from None  # no honest program writes messages itself
        raise _exception(str(kind))(str(text))

    def _lent(self, number: int, args: list[Any]) -> dict[str, Any]:
        try:
            return {"value": encode(self.functions[number](*[decode(a, self.borrow) for a in args]), self.lend)}
        except Exception as error:
            return {"raised": [type(error).__name__, str(error)]}

    def lend(self, value: Any) -> Any:
        """What the tests hand over that is no data."""
        if isinstance(value, Object):
            return {"handle": value._handle}
        if callable(value):
            self.functions.append(value)
            return {"function": len(self.functions) - 1}
        raise BrokenExam(f"the tests hand the program a {type(value).__name__}, which is no plain data")

    def borrow(self, tag: str, content: Any) -> Object:
        if tag != "handle":
            raise ValueError(tag)
        return Object(self, int(content[0]), str(content[1]))


def _exception(kind: str) -> type[Exception]:
    """The builtin exception of that name, where it may be raised here. What ends a loop would end the tests' loops without a failure."""
    found = getattr(builtins, kind, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return RuntimeError
    return RuntimeError if issubclass(found, StopIteration | StopAsyncIteration | UnicodeError) else found


class Object:
    """Something that stays in the program. It can be used, but what it says of equality and order is not believed."""

    def __init__(self, remote: Remote, handle: int, kind: str) -> None:
        self._remote, self._handle, self._kind = remote, handle, kind

    def _ask(self, do: str, *args: Any, **kwargs: Any) -> Any:
        return self._remote.ask({"do": do, "handle": self._handle}, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask("call", *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", name)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)

    def __bool__(self) -> bool:
        return bool(self._ask("bool"))

    def __len__(self) -> int:
        return int(self._ask("len"))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ask("iter"))

    def __str__(self) -> str:
        return str(self._ask("str"))

    def _refuse(self, *_: Any) -> Any:
        raise TypeError(f"a {self._kind} of the program is compared, and its own opinion on that is not believed")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _refuse
    __hash__ = None  # type: ignore[assignment]


class StandIn:
    """A function of the program, by name."""

    def __init__(self, remote: Remote, name: str) -> None:
        self._remote, self.__name__ = remote, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._remote.calls += 1
        return self._remote.ask({"do": "call", "name": self.__name__}, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._remote.ask({"do": "get", "name": self.__name__}, name)


def _run_tests(program: Remote, exam: dict[str, Any]) -> None:
    names: dict[str, Any] = {"__name__": "tests"}
    try:
        tree = ast.parse(exam["tests"])
        for text in (exam["prompt"], exam["setup"]):
            exec(compile(text, "<prompt>", "exec"), names)  # noqa: S102 - the task's own code
        modules, stand_ins = _wanted(tree, names, exam["entry_point"])
        names.update({name: __import__(name) for name in modules})
    except Exception as error:
        raise BrokenExam(f"the tests do not start: {type(error).__name__}: {error}") from None
    names.update({name: StandIn(program, name) for name in stand_ins})
    exec(compile(exam["tests"], "<tests>", "exec"), names)  # noqa: S102 - as above
    if exam["entry_point"] and callable(names.get("check")) and not _calls_check(tree):
        names["check"](StandIn(program, exam["entry_point"]))


def _calls_check(tree: ast.Module) -> bool:
    calls = (node.value.func for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    return any(isinstance(function, ast.Name) and function.id == "check" for function in calls)


def _wanted(tree: ast.Module, names: dict[str, Any], entry_point: str | None) -> tuple[set[str], set[str]]:
    """(modules the tests use without importing them, names they expect of the program).

    Names that mean something already are not the program's to define, or it could bring an ``abs`` or a ``set`` of its own. Only where
    the tests call nothing else is the one builtin they call taken for the one that the program redefines.
    """
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    dotted = {node.value.id for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    bound = {name for node in ast.walk(tree) for name in _bound_by(node)}
    if entry_point:
        names.pop(entry_point, None)  # the stub that the prompt leaves
    free = used - bound - names.keys() - {"__builtins__"}
    modules = {name for name in free & dotted if name in sys.stdlib_module_names and name not in called}
    expected = free - modules - set(dir(builtins))
    if not expected and not entry_point and len(called - bound) == 1:
        expected = called - bound
    return modules, expected


def _bound_by(node: ast.AST) -> Iterator[str]:
    """Names that a node of the tests gives a meaning, wherever."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name


def _said(error: BaseException, tests: str) -> str:
    """The failure, with the line of the tests that it came from."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = trace.tb_lineno
        trace = trace.tb_next
    lines = tests.splitlines()
    where = f" at: {lines[line - 1].strip()[:200]}" if 0 < line <= len(lines) else ""
    try:
        text = str(error)[:200]
    except BaseException:  # an exception of the tests' own making
        text = ""
    if isinstance(error, AssertionError):
        return f"a test fails{where}"
    return f"{type(error).__name__}: {text}{where}"


def _everything(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)
