"""From a name and a kind to the files of a package, and to a folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from rlvr_core.errors import RunFolderError
from rlvr_core.plugins import Catalogue, kind_named, version_of
from rlvr_core.scaffold.names import component_name, refuse_installed
from rlvr_core.scaffold.recipes import RECIPES, run_arguments, spec_lines


@dataclass(frozen=True)
class Package:
    """A package that is not written yet. ``name``: the component's, as a spec writes it."""

    kind: str
    name: str
    distribution: str
    files: Mapping[str, str]
    """Path inside the package's folder -> text."""

    def write(self, folder: Path) -> None:
        """Write the files, all or none. Raises RunFolderError where something stands there, or where nothing can be written."""
        if folder.exists() or folder.is_symlink():
            raise RunFolderError(f"{folder} exists, so it is left alone; choose another folder with --output, or remove it")
        nearest = next(parent for parent in folder.absolute().parents if parent.exists())
        try:
            with TemporaryDirectory(dir=nearest, prefix=".rlvr-new-") as beside:
                work = Path(beside) / folder.name
                for path, text in self.files.items():
                    (work / path).parent.mkdir(parents=True, exist_ok=True)
                    (work / path).write_text(text, encoding="utf-8")
                folder.parent.mkdir(parents=True, exist_ok=True)
                work.rename(folder)
        except OSError as error:
            raise RunFolderError(f"{folder} cannot be written: {error.strerror}; choose another folder with --output") from error

    def commands(self, folder: Path) -> dict[str, str]:
        """What to type next, by what it does."""
        return {
            "install": f"pip install -e {shlex.quote(f'{folder}[test]')}",
            "test": f"python -m pytest {shlex.quote(str(folder))}",
            "check": f"rlvr plugins check {self.kind}/{self.name}",
            "run": shlex.join(["rlvr", "run", *run_arguments(self.kind, self.name)]),
        }


def new_package(name: str, kind: str, installed: Catalogue) -> Package:
    """The package of a component of one kind. Raises SpecError, UnknownComponent or DuplicateComponent for what the user mistook."""
    kind_named(kind)
    component, recipe = component_name(name), RECIPES[kind]
    distribution = f"rlvr-{component.replace('_', '-')}"
    refuse_installed(installed, (kind, *recipe.brings), component, distribution)
    package, file = f"rlvr_{component}", recipe.written or kind
    words = {
        "name": component,
        "kind": kind,
        "distribution": distribution,
        "package": package,
        "file": file,
        "Class": class_name(component, file),
        "summary": recipe.summary,
        "requirement": requirement(version_of("rlvr")),
        "run": shlex.join(["rlvr", "run", *run_arguments(kind, component)]),
        "spec": "\n    ".join(spec_lines(kind, component)),
    }
    sources = {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": "common/README.md",
        f"{package}/__init__.py": "common/__init__.py",
        f"{package}/plugin.py": f"{kind}/plugin.py",
        f"{package}/{file}.py": f"{file}/component.py",
        f"tests/test_{component}.py": f"{kind}/test.py",
    }
    return Package(kind, component, distribution, {path: filled(source, words) for path, source in sources.items()})


def class_name(component: str, kind: str) -> str:
    """FadingLoss for the loss `fading`, MyLoss for `my_loss`; never the bare name of a contract, which the file imports."""
    words = component.split("_")
    return "".join(word.capitalize() for word in (words if words[-1] == kind and len(words) > 1 else [*words, kind]))


def filled(source: str, words: Mapping[str, str]) -> str:
    """A template with its words put in."""
    text = files("rlvr_core").joinpath(f"scaffold/templates/{source}.tmpl").read_text(encoding="utf-8")
    return Template(text).substitute(words)


def requirement(version: str) -> str:
    """The rlvr that a package written for this version wants: it, up to the next minor one."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        return "rlvr"
    major, minor = map(int, found.groups())
    return f"rlvr>={major}.{minor},<{major}.{minor + 1}"
