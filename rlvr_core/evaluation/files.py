"""The folder of an evaluation, and what tells one from another.

settings.json     every setting, written first: what is there already belongs to these settings or is refused
problems.jsonl    a row a problem, written batch by batch
eval.json         figures and settings, written last
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from rlvr_core import folder
from rlvr_core.errors import RunFolderError
from rlvr_core.evaluation.problems import Problem
from rlvr_core.rollout.prompts import Prompt

SETTINGS, PROBLEMS, RESULT = "settings.json", "problems.jsonl", "eval.json"
_BLOCK = 2**16
_BLOCKS = 64


def open_folder(output: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder, or take up the evaluation that stands there if it has the same settings."""
    if (output / SETTINGS).is_file() and not overwrite:
        before = json.loads((output / SETTINGS).read_text(encoding="utf-8"))
        changed = differences(before, json.loads(json.dumps(settings, default=str)))
        if changed:
            raise RunFolderError(
                f"{output} holds an evaluation with other settings ({changed}); choose another --output, or --overwrite it"
            )
        return
    if output.exists() and not (output / SETTINGS).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise RunFolderError(f"{output} exists and is no evaluation's folder, so it is left alone; choose another with --output")
    output.mkdir(parents=True, exist_ok=True)
    for name in (RESULT, PROBLEMS):
        (output / name).unlink(missing_ok=True)
    folder.write_json(output / SETTINGS, settings)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first few settings that differ, in words; empty where none does."""
    old, new = _flat(before), _flat(now)
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    said = [f"{key}: {_short(old.get(key))} there, {_short(new.get(key))} now" for key in keys[:3]]
    return "; ".join(said) + (f"; and {len(keys) - 3} more" if len(keys) > 3 else "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _flat(data: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        here = f"{path}.{key}" if path else key
        found |= _flat(value, here) if isinstance(value, dict) and value else {here: value}
    return found


def read_problems(file: Path, batch: int, wanted: int) -> list[Problem]:
    """The problems of every batch that was written whole."""
    if not file.is_file():
        return []
    found: list[Problem] = []
    for line in file.read_bytes().split(b"\n")[:-1]:  # what follows the last newline was cut off
        try:
            found.append(Problem.from_row(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            break
    return found if len(found) >= wanted else found[: len(found) // batch * batch]


def rewrite_problems(file: Path, problems: Sequence[Problem]) -> None:
    """Leave these rows alone in the file."""
    folder.write_text(file, "".join(_line(problem) for problem in problems))


def append_problems(file: Path, problems: Sequence[Problem]) -> None:
    """A line each, on the disk when this returns."""
    with file.open("a", encoding="utf-8") as rows:
        rows.write("".join(_line(problem) for problem in problems))
        rows.flush()
        os.fsync(rows.fileno())


def _line(problem: Problem) -> str:
    return json.dumps(problem.as_row(), ensure_ascii=False, default=str) + "\n"


def fingerprint_prompts(prompts: Sequence[Prompt]) -> str:
    """Number of problems, and a hash of what the model reads and what it is compared with."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr((prompt.example.id, prompt.ids, prompt.example.gold)).encode("utf-8", "backslashreplace"))
    return f"{len(prompts)}, sha256 {digest.hexdigest()[:16]}"


def fingerprint_model(source: str, model: PreTrainedModel) -> str:
    """Of a folder: a hash over blocks of its weights, spread evenly (training moves them all). Of a hub name: the commit."""
    if not Path(source).expanduser().is_dir():
        return f"commit {getattr(model.config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    for file in sorted(Path(source).expanduser().glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as data:
            for block in range(_BLOCKS):
                data.seek(block * max(0, size - _BLOCK) // max(1, _BLOCKS - 1))
                digest.update(data.read(_BLOCK))
    return f"sha256 of blocks {digest.hexdigest()[:16]}"
