"""A run's folder: what is in it and how it is written."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlvr_core.errors import RunFolderError
from rlvr_core.plugins import Catalogue
from rlvr_core.records import Rollout
from rlvr_core.spec.resolved import Resolved
from rlvr_core.spec.source import to_yaml

SPEC, MANIFEST, SUMMARY, METRICS, SAMPLES, TRACE, MODEL = (
    "spec.yaml",
    "manifest.json",
    "summary.json",
    "metrics.jsonl",
    "samples.jsonl",
    "trace.json",
    "model",
)
REPORTED_PACKAGES = (
    "torch", "transformers", "accelerate", "datasets", "pluggy", "pydantic", "math-verify", "latex2sympy2_extended",
    "tokenizers", "safetensors", "numpy",
)  # fmt: skip


def check_free(output: Path, overwrite: bool) -> None:
    """Raise RunFolderError where a folder is in the way. Only a run's own folder is ever overwritten."""
    if not output.exists():
        nearest = next(parent for parent in output.absolute().parents if parent.exists())
        try:
            tempfile.TemporaryDirectory(dir=nearest).cleanup()
        except OSError:
            raise RunFolderError(
                f"output {output}: {nearest} is not a folder one can write to; choose another with --output"
            ) from None
        return
    if output.is_dir() and not any(output.iterdir()):
        return
    if not (output / MANIFEST).is_file():
        raise RunFolderError(
            f"output {output} exists and is not a run's folder, so it is left alone; choose another with --output"
        )
    if not overwrite:
        raise RunFolderError(
            f"output {output} holds a run already; choose another with --output, go on with --resume, or --overwrite it"
        )


def check_resumable(output: Path) -> None:
    """Raise RunFolderError where a run has ended, or kept nothing to go on from."""
    if any((output / "checkpoints").glob("step-*")):
        return
    summary = output / SUMMARY
    ended = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    if ended.get("status") == "finished":
        raise RunFolderError(
            f"{output} finished its {ended['steps']} steps and keeps no checkpoint, so there is nothing to resume"
        )
    raise RunFolderError(f"{output} holds no checkpoint to resume from; set checkpoint.every in the spec, and start it anew")


def create(output: Path, resolved: Resolved, catalogue: Catalogue, command: str) -> None:
    """Make the folder with spec.yaml and manifest.json. Whatever run stood there is gone."""
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    write_json(output / MANIFEST, manifest(resolved, catalogue, command))
    write_text(output / SPEC, to_yaml(resolved.as_dict()))


def manifest(resolved: Resolved, catalogue: Catalogue, command: str) -> dict[str, Any]:
    """What it would take to do the run again."""
    return {"command": command, **environment(catalogue, resolved.spec.seed)}


def environment(catalogue: Catalogue, seed: int) -> dict[str, Any]:
    """Seed, versions, machine and place."""
    import torch

    return {
        "seed": seed,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in REPORTED_PACKAGES},
        "plugins": {component.distribution: component.version for component in catalogue},
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
        },
        "git": _git(),
        "cwd": str(Path.cwd()),
    }


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).chmod(0o666 & ~_umask())
    Path(name).replace(path)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


def write_rollouts(path: Path, rollouts: Iterable[Rollout]) -> None:
    """A line each."""
    from rlvr_core.observers.jsonl import rollout_row

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(rollout_row(r), ensure_ascii=False, default=str) + "\n" for r in rollouts))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the current folder's repository, and whether it had uncommitted changes."""
    git = shutil.which("git")
    if git is None:
        return None
    try:
        commit = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        status = subprocess.run([git, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(status.strip())}


def command_line() -> str:
    """The command that started this process."""
    import shlex

    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
