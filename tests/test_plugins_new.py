"""``rlvr plugins new``: what it writes is a working package, and what it refuses leaves nothing behind."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
import venv
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import rlvr_core
from rlvr_core.cli import app
from rlvr_core.contracts import KINDS
from rlvr_core.errors import DuplicateComponent, RlvrError, RunFolderError, SpecError, UnknownComponent
from rlvr_core.objective import build_objective
from rlvr_core.plugins import Catalogue, discover
from rlvr_core.scaffold import RECIPES, Package, new_package
from rlvr_core.scaffold.names import component_name
from rlvr_core.scaffold.package import requirement
from rlvr_core.scaffold.recipes import assignments
from rlvr_core.spec.source import parse_assignment, parse_yaml
from rlvr_core.testing.bench import resolved_for

ROOT = Path(__file__).parent.parent
BARE = discover(list)
"""Core alone."""
LONG = "a_name_of_thirty_two_characters1"
RUFF = [sys.executable, "-m", "ruff"] if importlib.util.find_spec("ruff") else [str(Path(sys.executable).parent / "ruff")]


def written(name: str, kind: str, folder: Path) -> Package:
    package = new_package(name, kind, BARE)
    package.write(folder)
    return package


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Package, Path]]:
    """A package of each kind, with the metadata that pip would have written beside it."""
    root = tmp_path_factory.mktemp("packages")
    made = {kind: (written(f"my_{kind}", kind, root / f"rlvr-my-{kind}"), root / f"rlvr-my-{kind}") for kind in KINDS}
    for package, folder in made.values():
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        metadata = folder / f"rlvr_{package.name}-{project['version']}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
        entries = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["rlvr"].items())
        (metadata / "entry_points.txt").write_text(f"[rlvr]\n{entries}")
    return made


def python(*arguments: str | Path, cwd: Path, path: list[Path]) -> subprocess.CompletedProcess[str]:
    """A process of its own with these folders on the path before this one's."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), *inherited])}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


class TestWhatIsWritten:
    """A package of every kind works as it stands."""

    def test_there_is_a_template_for_every_kind(self) -> None:
        assert set(RECIPES) == set(KINDS)

    def test_wheels_hold_every_template(self) -> None:
        patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["rlvr_core"]
        held = {path for pattern in patterns for path in (ROOT / "rlvr_core").glob(pattern)}
        templates = {path for path in (ROOT / "rlvr_core/scaffold/templates").rglob("*") if path.is_file()}
        assert len(templates) > 3 * len(KINDS) and templates <= held

    @pytest.mark.parametrize("name", ["x", LONG])
    def test_packages_are_lint_clean_and_formatted_however_long_the_name(self, name: str, tmp_path: Path) -> None:
        for kind in KINDS:
            written(name, kind, tmp_path / kind)
        rules = ["--select", "E,F,W,I,N,UP,B,C4,SIM,RET,PTH,PERF,RUF"]
        for command in (["check", *rules], ["format", "--diff"]):
            done = subprocess.run([*RUFF, *command, "--no-cache", "."], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_bare_core_finds_and_builds_the_component(
        self, kind: str, packages: dict[str, tuple[Package, Path]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package, folder = packages[kind]
        monkeypatch.syspath_prepend(str(folder))
        installed = discover(lambda: [(EntryPoint("it", f"rlvr_{package.name}.plugin", "rlvr"), package.distribution, "0.1.0")])
        found = installed.get(kind, package.name)
        assert found.distribution == f"rlvr-my-{kind}" and found.summary == RECIPES[kind].summary
        assert f'check_{kind}("{package.name}")' in package.files[f"tests/test_{package.name}.py"]
        if kind == "objective":
            objective = build_objective(resolved_for({"name": package.name}, installed).objective)
            assert list(objective.regularisers) == ["kl"]
        else:
            assert found.build(found.options()).options.model_fields_set == set()
            assert len(found.options.model_fields) >= 1

    def test_the_packages_own_tests_pass(self, packages: dict[str, tuple[Package, Path]], tmp_path: Path) -> None:
        folders = [folder for _, folder in packages.values()]
        (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
        options = ["-q", "-c", tmp_path / "pytest.ini", "--import-mode=importlib", "-p", "no:cacheprovider"]
        done = python("-m", "pytest", *options, *folders, cwd=tmp_path, path=[tmp_path, *folders])
        assert done.returncode == 0, done.stdout + done.stderr
        assert "passed" in done.stdout and "error" not in done.stdout

    def test_the_printed_line_runs_each_of_them(self, packages: dict[str, tuple[Package, Path]], tmp_path: Path) -> None:
        small = ["--steps", "1", "--set", "evaluation.problems=0", "--set", "rollout.prompts_per_step=4"]
        commands = {
            kind: [*shlex.split(package.commands(folder)["run"])[1:], *small, "--output", f"runs/{kind}"]
            for kind, (package, folder) in packages.items()
        }
        program = "import sys, json\nfrom rlvr_core.cli import app\nfor command in json.loads(sys.argv[1]):\n"
        program += "    app(command, standalone_mode=False)\n"
        folders = [folder for _, folder in packages.values()]
        done = python("-c", program, json.dumps(list(commands.values())), cwd=tmp_path, path=folders)
        assert done.returncode == 0, done.stdout + done.stderr
        metrics = {kind: json.loads((tmp_path / f"runs/{kind}/metrics.jsonl").read_text()) for kind in KINDS}
        assert metrics["loss"]["my_loss/push"] > 0
        assert metrics["sampler"]["my_sampler/kept_share"] == 0.5
        assert metrics["regulariser"]["my_regulariser/distance"] > 0
        assert metrics["objective"]["kl/start"] == 0.0
        assert (tmp_path / "runs/observer/my_observer.tsv").read_text().splitlines()[1].startswith("1\t")
        for kind, (package, _) in packages.items():
            spec = yaml.safe_load((tmp_path / f"runs/{kind}/spec.yaml").read_text())
            assert f"'{package.name}'" in repr(spec)


class TestTheCommand:
    """What is printed, and that nothing heavy is imported for it."""

    def test_it_says_what_was_written_and_what_to_type_next(self, tmp_path: Path) -> None:
        done = python("-m", "rlvr_core", "plugins", "new", "my-own", "--kind", "loss", cwd=tmp_path, path=[])
        assert done.returncode == 0, done.stderr
        lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
        assert lines[0] == ["wrote", "rlvr-my-own, a package with the loss 'my_own':"]
        said = [line[0] for line in lines[1:7]]
        assert sorted(said) == sorted(str(p.relative_to(tmp_path / "rlvr-my-own")) for p in files(tmp_path / "rlvr-my-own"))
        assert lines[-4:] == [
            ["install", "pip install -e 'rlvr-my-own[test]'"],
            ["test", "python -m pytest rlvr-my-own"],
            ["check", "rlvr plugins check loss/my_own"],
            ["run", "rlvr run --objective grpo --set objective.loss.name=my_own --set objective.loss.negative=0.5"],
        ]

    def test_it_imports_no_torch(self, tmp_path: Path) -> None:
        program = "import sys\nfrom rlvr_core.cli import app\n"
        program += (
            "app(['plugins', 'new', 'own', '--kind', 'reference'], standalone_mode=False)\nassert 'torch' not in sys.modules\n"
        )
        assert python("-c", program, cwd=tmp_path, path=[]).returncode == 0

    def test_the_folder_can_be_chosen_and_its_parents_are_made(self, tmp_path: Path) -> None:
        folder = tmp_path / "some where" / "else"
        result = CliRunner().invoke(app, ["plugins", "new", "own", "--kind", "task", "--output", str(folder)])
        assert result.exit_code == 0, result.output
        assert (folder / "rlvr_own/task.py").is_file()
        assert f"pip install -e '{folder}[test]'" in result.output

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_readmes_lines_of_spec_say_what_the_command_says(
        self, kind: str, packages: dict[str, tuple[Package, Path]]
    ) -> None:
        package, folder = packages[kind]
        lines = (folder / "README.md").read_text().split("In a spec file:\n\n")[1].split("\n\n")[0]
        said = parse_yaml(textwrap.dedent(lines), "README.md")
        assert kind in ("task", "rollout", "reward", "observer") or len(said.data) == 1  # parts of an objective: one line
        for path, value in (parse_assignment(text) for text in assignments(kind, package.name)):
            found: Any = said.data
            for key in path:
                found = found[key]
            assert found == value

    @pytest.mark.parametrize(
        ("version", "wanted"), [("0.1.3", "rlvr>=0.1,<0.2"), ("2.10.0rc1", "rlvr>=2.10,<2.11"), ("x", "rlvr")]
    )
    def test_the_package_wants_the_rlvr_it_was_written_for(self, version: str, wanted: str) -> None:
        assert requirement(version) == wanted


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class TestRefusals:
    """Every mistake is one line with a way out, and nothing is written."""

    @pytest.fixture(autouse=True)
    def _here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def refusal(self, *arguments: str) -> str:
        before = sorted(Path().rglob("*"))
        result = CliRunner().invoke(app, ["plugins", "new", *arguments])
        assert isinstance(result.exception, RlvrError), result.output
        assert sorted(Path().rglob("*")) == before
        assert "\n" not in str(result.exception)
        return str(result.exception)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("Mine", "write lowercase letters and digits"),
            ("2fast", "begin with a letter"),
            ("my loss", "write lowercase letters and digits"),
            ("my__loss", "joined by a single '_' or '-'"),
            ("mine_", "joined by a single '_' or '-'"),
            ("../mine", "write lowercase letters and digits"),
            ("größe", "write lowercase letters and digits"),
            ("mine\n", "write lowercase letters and digits"),
            (LONG + "x", "has 33 characters; 32 at most"),
            ("lambda", "is a keyword of Python; choose another, as my_lambda"),
            ("match", "is a keyword of Python"),
            ("null", "is no text to YAML"),
            ("random", "is a module of Python's standard library; choose another, as my_random"),
            ("rlvr", "choose another name"),
            ("rlvr-fading", "is called rlvr-NAME anyway; write fading"),
            ("core", "the package rlvr_core is rlvr's own"),
            ("popo", "the package rlvr_popo is rlvr's own"),
        ],
    )
    def test_a_name_that_will_not_do(self, name: str, said: str) -> None:
        message = self.refusal(name, "--kind", "loss")
        assert message.startswith(f"NAME {name!r}: ")
        assert said in message

    @pytest.mark.parametrize("name", ["x", "my_loss", "my-loss", "ppo2", "gae_3_b", LONG])
    def test_a_name_that_will(self, name: str) -> None:
        assert component_name(name) == name.replace("-", "_")

    def test_an_unknown_kind(self) -> None:
        message = self.refusal("mine", "--kind", "los")
        assert "no kind of component is named 'los'; did you mean 'loss'?" in message

    @pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
    def test_something_that_stands_in_the_way(self, make: Callable[[Path], None]) -> None:
        make(Path("rlvr-mine"))
        message = self.refusal("mine", "--kind", "loss")
        assert message == "rlvr-mine exists, so it is left alone; choose another folder with --output, or remove it"

    def test_a_component_that_is_installed(self) -> None:
        assert "there is loss 'clipped' of rlvr " in self.refusal("clipped", "--kind", "loss")
        assert "pip uninstall rlvr" in self.refusal("clipped", "--kind", "loss")

    def test_a_name_of_another_kind_is_free(self) -> None:
        assert new_package("clipped", "sampler", BARE).name == "clipped"

    def test_an_objective_brings_a_credit_whose_name_must_be_free_too(self) -> None:
        assert "there is credit 'group_relative' of rlvr-grpo" in self.refusal("group-relative", "--kind", "objective")

    def test_a_distribution_that_is_installed(
        self, packages: dict[str, tuple[Package, Path]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, folder = packages["loss"]
        monkeypatch.syspath_prepend(str(folder))
        installed: Catalogue = discover(lambda: [(EntryPoint("it", "rlvr_my_loss.plugin", "rlvr"), "rlvr_My.loss", "0.1.0")])
        with pytest.raises(DuplicateComponent, match="rlvr-my-loss is installed already and brings the loss 'my_loss'"):
            new_package("my_loss", "sampler", installed)

    @pytest.mark.parametrize("output", ["file/mine", "/proc/mine", "/proc/deep/mine"])
    def test_a_folder_that_cannot_be_written(self, output: str) -> None:
        Path("file").touch()
        message = self.refusal("mine", "--kind", "loss", "--output", output)
        assert message.startswith(f"{output} cannot be written: ") and message.endswith("choose another folder with --output")

    def test_a_disk_that_fills_up_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = Path.write_text

        def full(path: Path, text: str, encoding: str) -> int:
            if path.name == "plugin.py":
                raise OSError(28, "No space left on device")
            return write(path, text, encoding=encoding)

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(RunFolderError, match="No space left on device"):
            written("mine", "loss", tmp_path / "mine")
        assert list(tmp_path.iterdir()) == []

    def test_the_errors_are_those_that_the_command_line_prints(self) -> None:
        for kind, name, error in (
            ("loss", "2", SpecError),
            ("los", "mine", UnknownComponent),
            ("loss", "clipped", DuplicateComponent),
        ):
            with pytest.raises(error):
                new_package(name, kind, BARE)


@pytest.mark.slow
def test_pip_installs_a_package_and_its_tests_pass_there(tmp_path: Path) -> None:
    """An environment of its own, into which this one's packages are only looked up."""
    package = written("my_own", "sampler", tmp_path / "rlvr-my-own")
    venv.create(tmp_path / "env", with_pip=True)
    site = next((tmp_path / "env/lib").glob("python*/site-packages"))
    seen = [Path(rlvr_core.__file__).parent.parent, *ROOT.glob("plugins/*"), Path(torch.__file__).parent.parent]
    (site / "seen.pth").write_text("\n".join(map(str, seen)))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def do(*command: str | Path) -> subprocess.CompletedProcess[str]:
        here = [str(tmp_path / "env/bin/python"), "-m", *map(str, command)]
        return subprocess.run(here, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    installed = do("pip", "install", "-q", "--no-deps", "-e", tmp_path / "rlvr-my-own")
    assert installed.returncode == 0, installed.stderr
    assert f"implemented by rlvr_{package.name}.sampler:MyOwnSampler" in do("rlvr_core", "plugins", "show", package.name).stdout
    tested = do("pytest", "-q", "-p", "no:cacheprovider", "rlvr-my-own")
    assert tested.returncode == 0, tested.stdout
    shutil.rmtree(tmp_path / "env")
