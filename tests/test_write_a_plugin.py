"""The package that docs/write-a-plugin.md teaches, taken from the page as it stands."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlvr_core.plugins import Catalogue, discover
from rlvr_core.testing import scripted_rollouts
from rlvr_core.testing.bench import Bench

ROOT = Path(__file__).parent.parent
REWARDS, LENGTHS = [[1, 0, 1, 1], [0, 1, 0, 0]], [[3, 5, 2, 8], [1, 1, 7, 3]]


def write_package(folder: Path) -> None:
    """The page's files, each named in the line above its block."""
    page = (ROOT / "docs/write-a-plugin.md").read_text()
    blocks = re.findall(r"^`([\w/.]+)`[^\n]*\n\n```\w+\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in blocks] == ["pyproject.toml", "rlvr_fading/plugin.py", "rlvr_fading/loss.py"]
    assert sum(len(text.splitlines()) for _, text in blocks) < 70
    for name, text in [*blocks, ("rlvr_fading/__init__.py", "")]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    """Everything installed, and the page's package."""
    write_package(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = importlib.metadata.EntryPoint("fading", "rlvr_fading.plugin", "rlvr")
    real = [
        (e, d.metadata["Name"], d.version)
        for d in importlib.metadata.distributions()
        for e in d.entry_points
        if e.group == "rlvr"
    ]
    unique = {e.name: (e, name, version) for e, name, version in real}
    yield discover(lambda: [*unique.values(), (entry, "rlvr-fading", "0.1.0")])
    for name in [name for name in sys.modules if name.startswith("rlvr_fading")]:
        del sys.modules[name]


def test_the_pages_loss_takes_steps_that_do_not_depend_on_the_split(installed: Catalogue) -> None:
    found = []
    for budget in (1, 1000):
        objective = {"name": "grpo", "loss": {"name": "fading", "power": 2.0}}
        bench = Bench.of(objective, installed=installed, max_tokens_per_microbatch=budget)
        metrics, gradients = bench.gradients(scripted_rollouts(REWARDS, LENGTHS))
        assert 0 < metrics["fading/push"] < 1
        found.append(torch.cat([g.flatten() for g in gradients.values()]))
    assert found[0].abs().max() > 1e-6
    torch.testing.assert_close(found[0], found[1], atol=1e-10, rtol=1e-9)


def link_dependencies(site: Path) -> None:
    """Third-party packages of this environment, without rlvr's own and without pip."""
    here = Path(torch.__file__).parent.parent
    for entry in here.iterdir():
        if not entry.name.startswith(("rlvr", "__editable__", "pip", "_distutils", "distutils", "setuptools")):
            target = site / entry.name
            if not target.exists():
                target.symlink_to(entry)


@pytest.mark.slow
def test_wheels_install_run_and_uninstall_in_a_clean_environment(tmp_path: Path) -> None:
    """Core, POPO and the page's package as wheels, outside the repository; without POPO, core goes on and says what is missing."""
    write_package(tmp_path / "package")
    sources = {
        "rlvr": ROOT,
        "rlvr-popo": ROOT / "plugins/popo",
        "rlvr-grpo": ROOT / "plugins/grpo",
        "rlvr-fading": tmp_path / "package",
    }
    for name, source in sources.items():
        copy = tmp_path / "sources" / name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "tests"))
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path / "wheels"), str(copy)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    link_dependencies(next((tmp_path / "env/lib").glob("python*/site-packages")))
    environment = {**os.environ, "PATH": f"{tmp_path}/env/bin:{os.environ['PATH']}"}

    def do(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    wheels = sorted((tmp_path / "wheels").glob("*.whl"))
    assert len(wheels) == len(sources)
    assert do(python, "-m", "pip", "install", "-q", "--no-deps", *wheels).returncode == 0
    rlvr = tmp_path / "env/bin/rlvr"
    small = ["--steps", "1", "--set", "evaluation.problems=0", "--set", "rollout.prompts_per_step=4", "--overwrite"]
    run = do(rlvr, "run", "--objective", "grpo", "--set", "objective.loss.name=fading", *small)
    assert run.returncode == 0, run.stderr
    assert do(rlvr, "run", "--objective", "popo", *small).returncode == 0
    assert do(python, "-m", "pip", "uninstall", "-q", "-y", "rlvr-popo").returncode == 0
    missing = do(rlvr, "run", "--objective", "popo", *small)
    assert missing.returncode == 2 and "pip install rlvr-popo" in missing.stderr and "Traceback" not in missing.stderr
    assert do(rlvr, "run", "--objective", "grpo", *small).returncode == 0
