"""``rlvr score``: rows in, the same rows with outcomes out; or one line that says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def score(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rlvr_core", "score", *map(str, args)], capture_output=True, text=True, check=False
    )


def write(path: Path, *rows: Any) -> Path:
    path.write_bytes(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows) + b"\n")
    return path


HOSTILE = [
    "\x00\ud800\u2028\x85",
    "\\boxed{" * 50_000,
    "\\boxed{9^{9^{9^{9}}}}",
    "\\boxed{" + "(" * 2_000 + "}",
    "answer is " * 20_000,
    "\\boxed{\\sum_{i=1}^{10^{9}} i!}",
    "\\boxed{__import__('os')._exit(0)}",
]


def test_rows_come_back_whole_in_order_with_their_outcomes(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "gold": "72", "completion": r"\boxed{72}", "prompt": "6*12?", "level": ["a", None]},
        {"gold": 5, "completion": "the answer is 6", "value": "old"},
        {"gold": r"\sqrt{8}", "completion": r"\boxed{2\sqrt{2}}"},
        {"gold": "1", "completion": "I do not know"},
        *({"gold": "1", "completion": text} for text in HOSTILE),
        {"gold": 0.5, "completion": r"\boxed{\frac{1}{2}}"},
    ]
    out = tmp_path / "out.jsonl"
    done = score(write(tmp_path / "in.jsonl", *rows, b""), "--reward", "math", "--output", out)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "12 rows scored" in done.stderr
    found = [json.loads(line) for line in out.read_bytes().decode().splitlines() if line]
    keys = ("value", "status", "reason", "ms")
    assert [{k: v for k, v in row.items() if k not in keys} for row in found] == [
        {k: v for k, v in row.items() if k not in keys} for row in rows
    ]
    assert [(row["value"], row["status"]) for row in found[:4]] == [(1.0, "ok"), (0.0, "ok"), (1.0, "ok"), (0.0, "no_answer")]
    assert all(not row["value"] for row in found[4:-1])
    assert found[-1]["value"] == 1.0
    assert all(row["ms"] >= 0 and isinstance(row["reason"], str) for row in found)


def test_options_of_the_reward_and_of_the_workers_can_be_set(tmp_path: Path) -> None:
    rows = write(tmp_path / "in.jsonl", {"gold": "7", "completion": "answer: 7"})
    done = score(rows, "--set", "require_box=true", "--set", "scoring.workers=1")
    assert json.loads(done.stdout)["status"] == "no_answer"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"gold": "1", "completion": "1"}, b"{oops", {"gold": "1"}, b"\xff"],
         ["3 of 4 rows", "(line 2)", "no 'completion'", "(line 3)", "not UTF-8 (line 4)"]),
        ([b"[1]", b"3"], ["not a JSON object (line 1, 2)"]),
        ([{"gold": None, "completion": ""}], ["gold is no text or number but null (line 1)"]),
        ([{"gold": "1", "completion": 3}], ["completion is no text but a number"]),
        ([b'{"gold": NaN, "completion": ""}'], ["NaN is not a JSON value"]),
        ([b"[" * 100_000], ["line 1"]),
        ([b""], ["holds no rows"]),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_scored_are_one_line_and_nothing_is_written(tmp_path: Path, rows: list[Any], said: list[str]) -> None:
    out = tmp_path / "out.jsonl"
    done = score(write(tmp_path / "in.jsonl", *rows), "--output", out)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert all(text in done.stderr for text in said), done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--reward", "mth"], "did you mean 'math'"),
        (["--set", "requir_box=true"], "did you mean 'require_box'"),
        (["--set", "weight=2"], "has no effect"),
        (["--set", "scoring.on_error=zero"], "has no effect"),
        (["--output", "no/such/folder/out.jsonl"], "there is no folder"),
        (["--reward", "function"], "is required"),
        (["--reward", "function", "--set", "function=json:dupms"], "did you mean 'dumps'"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(tmp_path: Path, args: list[str], said: str) -> None:
    done = score(write(tmp_path / "in.jsonl", {"gold": "1", "completion": "1"}), *args)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr


def test_a_function_that_hangs_on_one_row_costs_that_row(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(
        "def judge(completions, **columns):\n"
        "    for c in completions:\n        while c == 'hang': pass\n"
        "    return [len(c) / 2 for c in completions]\n"
    )
    rows = write(tmp_path / "in.jsonl", *({"gold": "", "completion": c} for c in ("ab", "hang", "abcd")))
    done = score(rows, "--reward", "function", "--set", f"function={tmp_path}/judge.py:judge", "--set", "timeout_s=1.0")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["value"], row["status"]) for row in found] == [(1.0, "ok"), (None, "timeout"), (2.0, "ok")]
