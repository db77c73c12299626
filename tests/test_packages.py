"""Two packages outside core, harder than the page's: installed as anyone's are, they pass the kit and run; no file of core knows them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from rlvr_core.policy.loading import load_model

PACKAGES = Path(__file__).parent / "packages"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both packages, built and installed by pip into a folder of their own."""
    base = tmp_path_factory.mktemp("packages")
    copies = [shutil.copytree(folder, base / folder.name) for folder in sorted(PACKAGES.iterdir()) if folder.is_dir()]
    target = base / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run([*command, *map(str, copies)], check=True, capture_output=True, timeout=300)
    return target


def rlvr(site: Path, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    command = [sys.executable, "-m", "rlvr_core", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_they_are_found_and_pass_the_kit(site: Path, tmp_path: Path) -> None:
    listed = rlvr(site, "plugins", cwd=tmp_path).stdout
    assert {"rlvr-anchor", "rlvr-replay"} <= set(listed.split())
    for name in ("anchor", "replay", "above_mean"):
        found = rlvr(site, "plugins", "check", name, cwd=tmp_path)
        assert found.returncode == 0, found.stdout + found.stderr
        assert " 0 failed" in found.stdout


def test_core_names_neither() -> None:
    core = PACKAGES.parent.parent / "rlvr_core"
    assert not [path for path in core.rglob("*.py") if "rlvr_anchor" in path.read_text() or "rlvr_replay" in path.read_text()]


def rows(output: Path) -> list[Mapping[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


SMALL = ("--set", "evaluation.problems=0", "--set", "rollout.prompts_per_step=4", "--set", "rollout.group_size=4")


def test_the_anchor_holds_popo_to_its_twin_by_spec_alone(site: Path, tmp_path: Path) -> None:
    anchor = "objective.regularisers.anchor={to: twin, coef: 0.5}"
    done = rlvr(site, "run", "--objective", "popo", "--steps", "3", "--set", anchor, "--output", "run", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [row for row in rows(tmp_path / "run") if not row["learn/skipped"]]
    assert found and found[-1]["anchor/distance"] > found[0]["anchor/distance"] >= 0.0  # the twin lags behind
    refused = rlvr(site, "run", "--objective", "popo", "--set", anchor.replace("twin", "twn"), *SMALL, cwd=tmp_path)
    assert refused.returncode == 2 and "twn" in refused.stderr and "Traceback" not in refused.stderr


def test_a_replay_buffer_comes_back_with_a_resumed_run(site: Path, tmp_path: Path) -> None:
    arguments = ("--objective", "replay", "--steps", "6", "--set", "checkpoint.every=3", "--set", "checkpoint.keep=2", *SMALL)
    for name in ("whole", "resumed"):
        done = rlvr(site, "run", *arguments, "--output", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step-000006")
    again = rlvr(site, "run", "--resume", "resumed", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    whole, resumed = (
        [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in rows(tmp_path / name)]
        for name in ("whole", "resumed")
    )
    assert whole == resumed
    assert [row["replay/replayed"] for row in whole] == [0, 4, 4, 4, 4, 4]
    assert whole[-1]["correction/logprob_gap"] > 0  # replayed rollouts are stale, and seen as such
    weights = [
        torch.cat([p.detach().flatten() for p in load_model(str(tmp_path / name / "model"), dtype="float32").parameters()])
        for name in ("whole", "resumed")
    ]
    assert torch.equal(*weights)
