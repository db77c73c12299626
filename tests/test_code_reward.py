"""Reward code: right programs score 1, others 0, whatever they try; and nothing of them is left."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr_core.records import Outcome, RewardItem
from rlvr_core.reward.code import MARGIN, CodeReward, extract_program
from rlvr_core.reward.options import CodeOptions
from rlvr_core.reward.pool import Limits, Pool, builder
from rlvr_core.reward.sandbox.exam import examine
from rlvr_core.reward.sandbox.plain import decode, encode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox holds on Linux alone")

SECONDS = 3.0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """In workers, as in a run, with a folder for temporary files of their own."""
    options = CodeOptions(timeout_s=SECONDS, cpu_s=SECONDS, memory_mb=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
        pool = Pool({"code": builder(CodeReward, options)}, Limits(2, SECONDS + MARGIN, 1024, 10_000))
        yield pool
        pool.close()


def score(pool: Pool, *items: RewardItem) -> list[Outcome]:
    return pool.score("code", items)


def fenced(program: str) -> str:
    return f"Here it is:\n```python\n{program}\n```\n"


def asked(program: str, tests: str = "assert double(2) == 4\nassert double([1]) == [1, 1]") -> RewardItem:
    return RewardItem("Write double.", fenced(program), tests)


HONEST = "def double(x):\n    return x + x"

# Three problems in the layout of HumanEval and three in that of MBPP, written for this test.
BELOW = """
from typing import List


def below(xs: List[int], t: int) -> bool:
    \'\'\'Whether all are below t.
    >>> below([1], 2)
    True
    \'\'\'
"""
ROOT = """
import math


def value(cs: list, x: float):
    return sum(c * math.pow(x, i) for i, c in enumerate(cs))


def root(cs: list):
    \'\'\'A zero of value.\'\'\'
"""
BISECT = """    low, high = -100.0, 100.0
    while high - low > 1e-9:
        mid = (low + high) / 2
        low, high = (mid, high) if value(cs, mid) * value(cs, low) > 0 else (low, mid)
    return low
"""
DECODE = """
def encode(s: str):
    return "".join(chr((ord(c) - 92) % 26 + 97) for c in s)


def decode(s: str):
    \'\'\'Undo encode.\'\'\'
"""
DECODE_TESTS = """
def check(candidate):
    from random import choice
    for _ in range(20):
        s = "".join(choice("abcxyz") for _ in range(9))
        assert candidate(encode(s)) == s
"""
BELOW_TESTS = "METADATA = {}\n\ndef check(candidate):\n    assert candidate([1, 2], 3)\n    assert not candidate([1, 5], 3)\n"
ROOT_TESTS = (
    "def check(candidate):\n    for cs in ([-3.0, 2.0], [8.0, 0, 0, 1.0]):\n        assert abs(value(cs, candidate(cs))) < 1e-4\n"
)
FUNCTIONS: list[tuple[str, str, str, str]] = [
    (BELOW, "    return all(x < t for x in xs)\n", BELOW_TESTS, "below"),
    (ROOT, BISECT, ROOT_TESTS, "root"),
    (DECODE, '    return "".join(chr((ord(c) - 102) % 26 + 97) for c in s)\n', DECODE_TESTS, "decode"),
]
LISTS: list[tuple[str, list[str], list[str]]] = [
    ("def shared(a, b):\n    return tuple(set(a) & set(b))", [], ["assert set(shared((3, 4), (4, 5))) == set((4,))"]),
    ("import re\ndef starts(s):\n    return re.match('a.*b', s)", [], ["assert starts('axb')", "assert not starts('b')"]),
    ("def sum(a, b):\n    return a + b", [], ["assert sum(1, 2) == 3", "assert sum(4, 6) == 10"]),
]
TWICE: tuple[str, list[str], list[str]] = (
    "import math\ndef area(r):\n    return math.pi * r * r",
    ["import math"],
    ["assert math.isclose(area(2), 12.566370614359172)"],
)


def function_item(problem: tuple[str, str, str, str], completion: str) -> RewardItem:
    prompt, _, tests, name = problem
    return RewardItem(prompt, completion, tests, {"entry_point": name})


def list_item(program: str, imports: list[str], tests: list[str]) -> RewardItem:
    return RewardItem("Write it.", fenced(program), "", {"test_list": tests, "test_imports": imports})


class Changed(ast.NodeTransformer):
    """Returns something else everywhere."""

    def visit_Return(self, node: ast.Return) -> ast.AST:
        return ast.parse(f"return [{ast.unparse(node.value or ast.Constant(None))}, 'changed']").body[0]


def changed(program: str) -> str:
    return ast.unparse(Changed().visit(ast.parse(program)))


def test_reference_programs_score_one_in_every_layout(pool: Pool) -> None:
    items = [function_item(p, p[1]) for p in FUNCTIONS]
    items += [function_item(p, fenced(p[0] + p[1])) for p in FUNCTIONS]
    items += [function_item(p, fenced(p[1])) for p in FUNCTIONS]
    items += [list_item(*problem) for problem in [*LISTS, TWICE]]
    assert [(o.value, o.reason) for o in score(pool, *items)] == [(1.0, "all tests passed")] * len(items)


def test_changed_programs_score_zero(pool: Pool) -> None:
    items = [function_item(p, fenced(p[0] + changed("def f():\n" + p[1]).removeprefix("def f():\n"))) for p in FUNCTIONS]
    items += [list_item(changed(program), *rest) for program, *rest in [*LISTS, TWICE]]  # type: ignore[misc]
    assert [(o.value, o.status) for o in score(pool, *items)] == [(0.0, "ok")] * len(items)


FORGERIES = {
    "exits": "import os\nos._exit(0)",
    "exits politely": "import sys\nsys.exit(0)",
    "exits when called": "import os\ndef double(x):\n    os._exit(0)",
    "raises SystemExit when called": "def double(x):\n    raise SystemExit(0)",
    "equals everything": "class Yes:\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
    "def double(x):\n    return Yes()",
    "is a list that equals everything": "class Yes(list):\n    def __eq__(self, other): return True\n"
    "class Int(int):\n    def __eq__(self, other): return True\n"
    "def double(x):\n    return Yes() if isinstance(x, list) else Int()",
    "patches builtins": "import builtins\nbuiltins.AssertionError = Warning\nbuiltins.set = builtins.sorted = lambda *_: 0\n"
    "def double(x):\n    return 0",
    "patches frames": "import sys\ndef double(x):\n    f = sys._getframe()\n    while f:\n"
    "        f.f_globals.update(dict.fromkeys(list(f.f_globals), lambda *_: True)); f = f.f_back\n    return 0",
    "writes a verdict everywhere": 'import os\nsaid = b\'{"verdict": "passed", "reason": "", "held": {}}\'\n'
    "for fd in range(64):\n    try: os.write(fd, len(said).to_bytes(4, 'big') + said)\n    except OSError: pass\n"
    "    try: os.write(fd, said)\n    except OSError: pass\ndef double(x):\n    return 0",
    "answers before it is asked": "import os\nfor body in (b'{\"value\": 4}', b'{\"value\": [1, 1]}', b'{\"value\": null}'):\n"
    "    for fd in range(3, 64):\n        try: os.write(fd, len(body).to_bytes(4, 'big') + body)\n        except OSError: pass\n"
    "def double(x):\n    return 0",
    "kills what it can": "import os, signal\nsignal.signal(15, signal.SIG_IGN)\nfor pid in (-1, 0, 1, os.getppid()):\n"
    "    try: os.kill(pid, 9)\n    except OSError: pass\ndef double(x):\n    return 0",
    "traces its elders": "import ctypes\nlibc = ctypes.CDLL(None)\nfor pid in range(1, 2000): libc.ptrace(16, pid, 0, 0)\n"
    "def double(x):\n    return 0",
    "defines the tests' words": "def double(x):\n    return 0\ncheck = print = len = abs = lambda *_: True",
    "ends the tests' loops": "def double(x):\n    raise StopIteration",
    "is empty": "",
    "is no Python": "double(x) = 2x",
}


@pytest.mark.parametrize("how", FORGERIES)
def test_a_program_that_does_not_do_the_task_scores_zero(pool: Pool, how: str) -> None:
    loops = "for found in map(double, [1, 2]):\n    assert found in (2, 4)\nassert all(map(lambda x: double(x) == 2 * x, [1]))"
    assert score(pool, asked(FORGERIES[how], loops))[0].value == 0.0
    [outcome] = score(pool, asked(FORGERIES[how]))
    assert (outcome.value, outcome.status) == (0.0, "ok") if how != "is empty" else outcome.value == 0.0, outcome


GREEDY = {
    "loops": "while True: pass",
    "sleeps": "import time\ntime.sleep(1000)",
    "forks": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "forks and leaves its group": "import os\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n"
    "        while True: pass\ndef double(x):\n    while True: pass",
    "starts threads": "import threading, time\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(1000,)).start()\n"
    "    except RuntimeError: pass",
    "grows": "hold = []\nwhile True: hold.append(bytearray(10**7))",
    "asks for much at once": "x = bytearray(10**11)",
    "counts far": "x = 9**9**9",
    "prints": "import sys\nwhile True: print('x' * 10**6); sys.stderr.write('y' * 10**6)",
    "returns much": "def double(x):\n    return 'x' * 10**8",
    "returns itself": "def double(x):\n    y = []\n    y.append(y)\n    return y",
    "returns without end": "import itertools\ndef double(x):\n    return itertools.count()",
    "recurses": "def double(x):\n    return double(x)",
    "fills the disk": "i = 0\nwhile True:\n    try: open(f'f{i}', 'wb').write(b'x' * 10**7)\n    except OSError: pass\n    i += 1",
    "answers for ever": "import os, json\nwhile True:\n    for fd in range(3, 64):\n"
    "        try: os.write(fd, b'\\0\\0\\0\\x0d{\"function\":0}')\n        except OSError: pass",
}


def test_a_program_that_only_works_is_stopped_by_its_processor_time() -> None:
    limits = {"seconds": 60.0, "cpu_seconds": 1.0, "memory_mb": 256, "folder_mb": 1, "processes": 1}
    verdict = examine("while True: pass", "assert f()", limits=limits)
    assert (verdict.verdict, verdict.reason) == ("failed", "the program ended, or fell silent, before its tests did")


def descendants(*roots: int) -> set[int]:
    """Processes below these. Workers adopt what programs leave behind, so that is among them."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found, new = set(), set(roots)
    while new := {pid for pid, parent in parents.items() if parent in new}:
        found |= new
    return found


def leftovers(pool: Pool) -> list[object]:
    """Processes below the workers, and temporary files of theirs. One that is still starting tries its own sandbox: that ends first."""
    while not all(worker.ready for worker in pool.workers):
        pool._turn()
    return [*descendants(*(w.process.pid for w in pool.workers)), *Path(os.environ["TMPDIR"]).iterdir()]


def test_greedy_programs_score_zero_and_leave_nothing_behind(pool: Pool) -> None:
    outcomes = dict(zip(GREEDY, score(pool, *map(asked, GREEDY.values())), strict=True))
    assert {how: o for how, o in outcomes.items() if (o.value, o.status) != (0.0, "ok")} == {}
    assert leftovers(pool) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_program_ends_with_the_run_whatever_ends_that(tmp_path: Path, how: signal.Signals) -> None:
    row = {
        "gold": "assert f()",
        "completion": fenced("import os, time\nif os.fork() == 0: os.setsid()\nwhile True: time.sleep(9)"),
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    command = [sys.executable, "-m", "rlvr_core", "score", str(tmp_path / "rows.jsonl"), "--reward", "code"]
    options = ["--set", "timeout_s=600", "--set", "scoring.workers=1"]
    parent = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert within_seconds(lambda: len(descendants(parent.pid)) >= 6), (
        "a worker; examiner and program with a first process each; its child"
    )
    started = descendants(parent.pid)
    parent.send_signal(how)
    parent.wait(20)
    assert within_seconds(lambda: not any(map(alive, started)))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def within_seconds(what: Callable[[], bool]) -> bool:
    for _ in range(600):
        if what():
            return True
        time.sleep(0.05)
    return False


def test_a_good_program_may_leave_children_and_they_end_with_it(pool: Pool) -> None:
    program = f"import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass\n{HONEST}"
    [outcome] = score(pool, asked(program))
    assert outcome.value == 1.0
    assert leftovers(pool) == []


def probe(pool: Pool, body: str) -> Any:
    """What a function in the sandbox finds, told by the test that fails on it."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    item = RewardItem(
        "",
        fenced(f"import os, socket\ndef look():\n{lines}"),
        "found = look()\nassert found is None, found\nraise ValueError(found)",
    )
    [outcome] = score(pool, item)
    return outcome.reason


@pytest.fixture(scope="module")
def all_measures(pool: Pool) -> None:
    if pool.ready():
        pytest.skip(f"this system holds less back: {pool.ready()}")


@pytest.mark.usefixtures("all_measures")
@pytest.mark.parametrize(
    "attempt",
    [
        "open('/etc/passwd').read()", "open('/proc/self/environ').read()", "os.listdir('/')", "os.listdir('/home')",
        "os.listdir(os.path.expanduser('~'))",
        "open('/tmp/../escaped', 'w')", "open('/dev/shm/x', 'w')", "open({here!r}).read()", "os.mkdir({folder!r} + '/made')",
        "os.remove({victim!r})", "os.chmod({victim!r}, 0o777)", "os.execv('/bin/sh', ['sh', '-c', 'true'])",
        "os.setuid(0)", "os.kill({pid}, 9)",
        "socket.create_connection(('127.0.0.1', {port}), 1)", "socket.create_connection(('1.1.1.1', 53), 1)",
    ],
)  # fmt: skip
def test_a_program_reaches_nothing_outside_its_folder(pool: Pool, tmp_path: Path, attempt: str) -> None:
    import socket

    victim = tmp_path / "victim"
    victim.write_text("secret")
    victim.chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = attempt.format(
            here=__file__, folder=str(tmp_path), victim=str(victim), pid=os.getpid(), port=server.getsockname()[1]
        )
        reason = probe(pool, f"try: {text}\nexcept (OSError, ValueError): return\nreturn 'succeeded'")
    assert reason.startswith("ValueError: None"), f"{text}: {reason}"
    assert victim.read_text() == "secret"
    assert list(tmp_path.iterdir()) == [victim]


def test_the_environment_is_empty_and_the_folder_can_be_used(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "open('a', 'w').write('b')\nassert open('a').read() == 'b' and os.listdir('.') == ['a']"
    body += "\nassert not set(os.environ) - {'LC_CTYPE'}"
    assert probe(pool, body).startswith("ValueError: None")


def test_tests_are_not_in_the_programs_reach(pool: Pool) -> None:
    body = "import gc\nseen = [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]"
    body += "\nseen = [o for o in seen if ''.join(['hidden', 'word']) in repr(o)[:100000]]"
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    program = f"def look():\n{lines}\n    return len(seen)\n"
    [outcome] = score(pool, RewardItem("", fenced(program), "assert look() == 0  # hiddenword"))
    assert outcome.value == 1.0, outcome.reason


def test_objects_and_functions_cross_as_far_as_tests_need_them(pool: Pool) -> None:
    program = (
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
        "    def pop(self): return self.items.pop()\n    def __len__(self): return len(self.items)\n"
        "def apply(f, xs):\n    return (f(x) for x in xs)\ndef fail():\n    raise ValueError('no')"
    )
    tests = (
        "s = Stack()\ns.push((1, {2: {3}}))\nassert len(s) == 1 and s.items == [(1, {2: {3}})]\nassert s.pop() == (1, {2: {3}})\n"
        "assert list(apply(lambda x: x * 2, [1, 2**70])) == [2, 2**71]\n"
        "try:\n    fail()\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'no'"
    )
    [outcome] = score(pool, RewardItem("", fenced(program), tests))
    assert outcome.value == 1.0, outcome.reason


@pytest.mark.parametrize(
    ("tests", "columns", "reason"),
    [
        ("", {}, "no tests"),
        ("assert True", {}, "never call the program"),
        ("assert (", {}, "do not start: SyntaxError"),
        (
            "import nowhere_to_be_found\nassert double(2) == 4",
            {"test_imports": ["import nowhere_to_be_found"]},
            "ModuleNotFoundError",
        ),
        ("", {"test_list": 5}, "neither code nor a list"),
        ("assert double(2) == 4", {"entry_point": "not a name"}, "not the name of a function"),
    ],
)
def test_tests_that_cannot_be_used_are_an_error_and_no_verdict(
    pool: Pool, tests: str, columns: dict[str, Any], reason: str
) -> None:
    [outcome] = score(pool, RewardItem("", fenced(HONEST), tests, columns))
    assert (outcome.value, outcome.status) == (None, "error")
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\na\n```\ntext\n```\nb\n```", "b\n"),
        ("```py\na\n```\n```bash\nls\n```", "a\n"),
        ("~~~python\na\n~~~", "a\n"),
        ("````python\na\n```\nb\n````", "a\n```\nb\n"),
        ("```python\na\n```\n```python\nnever closed", "a\n"),
        ("```python\nnever closed", None),
        ("no program", None),
        ("", None),
        ("def f():\n    return 1\n", "def f():\n    return 1\n"),
    ],
)
def test_the_last_closed_block_is_the_program(completion: str, program: str | None) -> None:
    assert extract_program(completion, "", None) == (program, False)


def test_a_completion_goes_on_with_a_prompt_that_is_code() -> None:
    prompt = 'def f(x):\n    """Doc."""\n'
    assert extract_program("    return x\n", prompt, "f") == (prompt + "    return x\n", True)
    assert extract_program("```\n    return x\n```", prompt, "f") == (prompt + "    return x\n", True)
    assert extract_program("```\ndef f(x): return x\n```", prompt, "f") == ("def f(x): return x\n", False)
    assert extract_program("Multiply it.", "What is f?", "f") == (None, False)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**80), 1.5, float("inf"), "a\ud800",
     [1, [2]], (1, (2,)), {1: {2, 3}, "k": frozenset({4})}, b"x", bytearray(b"y"), 1j, range(3)],
)  # fmt: skip
def test_plain_values_cross_unchanged(value: Any) -> None:
    import json

    def refuse(*_: Any) -> Any:
        raise AssertionError

    back = decode(json.loads(json.dumps(encode(value, refuse))), refuse)
    assert back == value
    assert type(back) is type(value)


def test_views_and_iterators_cross_as_such() -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError

    data = {"a": 1, "b": 2}
    keys, values, items, iterator = (
        decode(encode(v, refuse), refuse) for v in (data.keys(), data.values(), data.items(), iter([1, 2]))
    )
    assert (keys, sorted(values), len(values), items, list(iterator)) == (data.keys(), [1, 2], 2, data.items(), [1, 2])


def test_the_sandbox_side_imports_the_standard_library_alone() -> None:
    code = (
        "import sys, types\nfor name in ('rlvr_core', 'rlvr_core.reward', 'rlvr_core.reward.sandbox'):\n"
        "    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = [sys.argv[1]]\n"
        "import rlvr_core.reward.sandbox.program, rlvr_core.reward.sandbox.examiner"
    )
    folder = Path(__file__).parent.parent / "rlvr_core" / "reward" / "sandbox"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(folder)], check=True)
