"""Discovery: installed plugins -> a catalogue of components.

Happens in a function, never at import. Whatever goes wrong is an error that names the plugin, never a log line.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pluggy

from rlvr_core.contracts import KINDS, Kind
from rlvr_core.errors import DuplicateComponent, PluginLoadError, UnknownComponent, nearest
from rlvr_core.hookspecs import API_VERSION, GROUP, Hooks
from rlvr_core.options import Options
from rlvr_core.spec.parts import Objective

FIRST_PARTY: Mapping[str, tuple[str, Mapping[str, list[str]]]] = {
    "rlvr-popo": (
        "plugins/popo",
        {
            "objective": ["popo"],
            "sampler": ["positive_only"],
            "credit": ["bounded_is"],
            "loss": ["bounded_is"],
            "regulariser": ["similarity"],
        },
    ),
    "rlvr-grpo": (
        "plugins/grpo",
        {
            "objective": ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", "rloo", "reinforce_pp"],
            "sampler": ["dynamic"],
            "credit": ["group_relative", "leave_one_out", "reinforce_pp"],
            "loss": ["gspo", "cispo", "sapo"],
        },
    ),
    "rlvr-ppo": ("plugins/ppo", {"objective": ["ppo"], "credit": ["gae"], "regulariser": ["value"]}),
}
"""What our own optional distributions hold, so that a bare core can say which to install: folder in a checkout, kind -> names."""


@dataclass(frozen=True)
class Component:
    """One registered component. Its class is imported on ``load``."""

    kind: str
    name: str
    target: str
    options: type[Options]
    summary: str
    distribution: str
    version: str
    objective: Objective | None = None

    def load(self) -> type[Any]:
        """Import the class. Raises PluginLoadError naming the plugin and the cause."""
        module, _, attribute = self.target.partition(":")
        where = f"{self.kind} '{self.name}' of {self.distribution} {self.version}"
        try:
            loaded: Any = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # any failure of foreign code has this one meaning
            raise PluginLoadError(
                f"{where} could not be loaded from {self.target}: {_said(error)}; fix or uninstall {self.distribution}"
            ) from error
        base = KINDS[self.kind].base
        if not (inspect.isclass(loaded) and base is not None and issubclass(loaded, base)):
            raise PluginLoadError(
                f"{where}: {self.target} is not a subclass of rlvr_core.contracts.{base.__name__ if base else ''}"
            )
        return loaded

    def build(self, options: Options) -> Any:
        """An instance with these options."""
        return self.load()(options)


@dataclass(frozen=True)
class Catalogue:
    """Everything installed: (kind, name) -> component."""

    components: Mapping[tuple[str, str], Component] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Component]:
        return iter(self.components.values())

    def names(self, kind: str) -> list[str]:
        """Names installed of a kind, sorted."""
        return sorted(name for k, name in self.components if k == kind)

    def get(self, kind: str, name: str) -> Component:
        """One component. Raises UnknownComponent with the nearest name, or the package that holds it."""
        found = self.components.get((kind, name))
        if found is not None:
            return found
        for distribution, (folder, kinds) in FIRST_PARTY.items():
            if name in kinds.get(kind, ()):
                raise UnknownComponent(
                    f"{kind} '{name}' is in the package {distribution}, which is not installed; "
                    f"install it with: pip install {distribution} (from a checkout: pip install -e {folder})"
                )
        raise UnknownComponent(f"no {kind} is named '{name}'; {nearest(name, self.names(kind))}")


def discover(
    entry_points: Callable[[], list[tuple[importlib.metadata.EntryPoint, str, str]]] | None = None,
) -> Catalogue:
    """Import core's own plugin and every installed one, and collect what they register.

    ``entry_points`` stands in for the installed metadata: (entry point, distribution, version).
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    found: dict[tuple[str, str], Component] = {}
    owners: dict[ModuleType, str] = {}
    core = importlib.import_module("rlvr_core.builtins")
    _collect(manager, core, "rlvr", version_of("rlvr"), found)
    for entry, distribution, version in (entry_points or _installed)():
        try:
            module = entry.load()
        except (Exception, SystemExit) as error:  # any failure of foreign code has this one meaning
            raise PluginLoadError(
                f"plugin '{entry.name}' of {distribution} {version} did not import ({entry.value}): {_said(error)}; "
                f"fix it, or: pip uninstall {distribution}"
            ) from error
        if module in owners:
            raise DuplicateComponent(
                f"the plugin {entry.value} is brought by both {owners[module]} and {distribution} {version}; "
                f"uninstall one: pip uninstall {distribution}"
            )
        owners[module] = f"{distribution} {version}"
        _collect(manager, module, distribution, version, found)
    return Catalogue(found)


def kind_named(kind: str) -> Kind:
    """A kind of component. Raises UnknownComponent with the nearest name."""
    if kind not in KINDS:
        raise UnknownComponent(f"no kind of component is named '{kind}'; {nearest(kind, KINDS)}")
    return KINDS[kind]


@functools.cache
def catalogue() -> Catalogue:
    """What is installed, discovered once a process."""
    return discover()


def _installed() -> list[tuple[importlib.metadata.EntryPoint, str, str]]:
    rows = [
        (entry, distribution.metadata["Name"], distribution.version)
        for distribution in importlib.metadata.distributions()
        for entry in distribution.entry_points
        if entry.group == GROUP
    ]
    unique = {(entry.name, name): (entry, name, version) for entry, name, version in reversed(rows)}
    return [unique[key] for key in sorted(unique, key=lambda key: (key[1], key[0]))]


def _collect(
    manager: pluggy.PluginManager,
    module: ModuleType,
    distribution: str,
    version: str,
    found: dict[tuple[str, str], Component],
) -> None:
    """Check one plugin and take in what it registers."""
    who = f"plugin {module.__name__} of {distribution} {version}"
    spoken = getattr(module, "RLVR_API", None)
    if spoken != API_VERSION:
        states = "states no RLVR_API" if spoken is None else f"was written for API {spoken}"
        raise PluginLoadError(f"{who} {states}; this rlvr speaks API {API_VERSION}: install a matching version of {distribution}")
    known = {kind.hook for kind in KINDS.values()}
    for attribute, value in vars(module).items():
        if not (inspect.isfunction(value) and value.__module__ == module.__name__):
            continue
        marked = hasattr(value, f"{GROUP}_impl")
        if marked and attribute not in known:
            raise PluginLoadError(f"{who} implements no hook of rlvr with '{attribute}'; {nearest(attribute, known)}")
        if attribute in known and not marked:
            raise PluginLoadError(f"{who} defines '{attribute}' without @rlvr_core.hookimpl, so it would never be called; add it")
    if not any(hasattr(module, hook) for hook in known):
        raise PluginLoadError(f"{who} implements no hook, so it brings nothing; known hooks: {', '.join(sorted(known))}")
    try:
        manager.register(module)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginLoadError(f"{who}: {_said(error)}") from error
    for kind in KINDS.values():
        hook = getattr(module, kind.hook, None)
        if hook is None:
            continue
        try:
            caller = manager.subset_hook_caller(kind.hook, [p for p in manager.get_plugins() if p is not module])
            caller(register=_registrar(kind.name, distribution, version, found))
        except (DuplicateComponent, PluginLoadError):
            raise
        except Exception as error:  # any failure of foreign code has this one meaning
            raise PluginLoadError(f"{who}: {kind.hook} failed: {_said(error)}") from error


def _registrar(kind: str, distribution: str, version: str, found: dict[tuple[str, str], Component]) -> Callable[..., None]:
    def add(component: Component) -> None:
        other = found.get((kind, component.name))
        if other is not None:
            raise DuplicateComponent(
                f"{kind} '{component.name}' is registered by both {other.distribution} {other.version} "
                f"and {distribution} {version}; uninstall one: pip uninstall {distribution}"
            )
        found[(kind, component.name)] = component

    def register(name: str, target: str, *, options: type[Options], summary: str) -> None:
        if not (inspect.isclass(options) and issubclass(options, Options)):
            raise PluginLoadError(f"{kind} '{name}' of {distribution}: options must be a subclass of rlvr_core.Options")
        undescribed = [field for field, info in options.model_fields.items() if not info.description]
        if undescribed:
            raise PluginLoadError(f"{kind} '{name}' of {distribution}: options without a description: {', '.join(undescribed)}")
        if "name" in options.model_fields:
            raise PluginLoadError(f"{kind} '{name}' of {distribution}: 'name' is reserved and cannot be an option")
        add(Component(kind, name, target, options, summary, distribution, version))

    def register_objective(name: str, objective: Objective, *, summary: str) -> None:
        if not isinstance(objective, Objective):
            raise PluginLoadError(
                f"objective '{name}' of {distribution}: must be an rlvr_core.Objective, not {type(objective).__name__}"
            )
        add(Component(kind, name, "", Options, summary, distribution, version, objective))

    return register_objective if kind == "objective" else register


def version_of(distribution: str) -> str:
    """The installed version of a distribution; ``0+unknown`` where it is only on the path."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


def _said(error: BaseException) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
