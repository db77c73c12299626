"""Plugins: what is installed is found, and whatever is wrong with a plugin is an error that names it."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rlvr_core.contracts import KINDS
from rlvr_core.errors import DuplicateComponent, PluginLoadError, UnknownComponent
from rlvr_core.hookspecs import API_VERSION, GROUP, Hooks
from rlvr_core.plugins import FIRST_PARTY, Catalogue, Component, catalogue, discover

Row = tuple[EntryPoint, str, str]
Installed = Callable[..., Row]

HEAD = f"""
from rlvr_core import Objective, Options, hookimpl, option
RLVR_API = {API_VERSION}

class Nothing(Options):
    '''None.'''
"""
SAMPLER = """
@hookimpl
def register_samplers(register):
    register("mine", "{target}", options=Nothing, summary="mine")
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Makes a module with some source and says that a distribution brings it as a plugin."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source: str, *, module: str = "some_plugin", distribution: str = "rlvr-some", version: str = "1.2") -> Row:
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, module, raising=False)
        return EntryPoint("some", module, GROUP), distribution, version

    return make


def discovered(*rows: Row) -> Catalogue:
    """What core and these plugins register, whatever else is installed here."""
    return discover(lambda: list(rows))


def refusal(*rows: Row) -> str:
    """The one line that discovery fails with."""
    with pytest.raises((PluginLoadError, DuplicateComponent)) as caught:
        discovered(*rows)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestHooks:
    """The extension points are few, frozen and documented."""

    def test_the_hooks_are_these(self) -> None:
        hooks = [name for name, value in vars(Hooks).items() if inspect.isfunction(value)]
        assert sorted(hooks) == [
            "register_corrections",
            "register_credits",
            "register_losses",
            "register_objectives",
            "register_observers",
            "register_references",
            "register_regularisers",
            "register_rewards",
            "register_rollouts",
            "register_samplers",
            "register_shapers",
            "register_tasks",
        ]

    def test_every_kind_has_its_hook_and_every_hook_its_kind(self) -> None:
        hooks = {name for name, value in vars(Hooks).items() if inspect.isfunction(value)}
        assert {kind.hook for kind in KINDS.values()} == hooks

    @pytest.mark.parametrize("hook", [kind.hook for kind in KINDS.values()])
    def test_a_hook_is_documented_and_takes_register_alone(self, hook: str) -> None:
        function = getattr(Hooks, hook)
        assert inspect.getdoc(function)
        assert list(inspect.signature(function).parameters) == ["self", "register"]

    def test_every_kind_but_objectives_says_what_its_classes_derive_from(self) -> None:
        assert [name for name, kind in KINDS.items() if kind.base is None] == ["objective"]


class TestWhatIsInstalled:
    """Core's own components and those of our distributions."""

    @pytest.mark.parametrize("component", list(catalogue()), ids=lambda c: f"{c.kind}/{c.name}")
    def test_a_component_loads_as_its_kind_and_is_summed_up_on_one_line(self, component: Component) -> None:
        assert component.summary and "\n" not in component.summary
        if component.objective is None:
            assert issubclass(component.load(), KINDS[component.kind].base)

    def test_core_stands_alone(self) -> None:
        assert {component.distribution for component in discovered()} == {"rlvr"}
        assert discovered().names("objective") == []

    @pytest.mark.parametrize("distribution", FIRST_PARTY)
    def test_what_a_bare_core_says_of_our_packages_is_what_they_hold(self, distribution: str) -> None:
        _, kinds = FIRST_PARTY[distribution]
        held = {(c.kind, c.name) for c in catalogue() if c.distribution == distribution}
        assert {(kind, name) for kind, names in kinds.items() for name in names} == held

    @pytest.mark.parametrize("distribution", FIRST_PARTY)
    def test_the_checkout_folder_named_for_installing_holds_that_distribution(self, distribution: str) -> None:
        folder, _ = FIRST_PARTY[distribution]
        pyproject = Path(__file__).parent.parent / folder / "pyproject.toml"
        assert f'name = "{distribution}"' in pyproject.read_text(encoding="utf-8")

    def test_discovery_happens_once_a_process(self) -> None:
        assert catalogue() is catalogue()


class TestUnknownNames:
    """A name that nothing has comes with a way out."""

    def test_the_nearest_name_is_suggested_and_all_are_listed(self) -> None:
        with pytest.raises(
            UnknownComponent, match=r"no reference is named 'ema_twn'; did you mean 'ema_twin'\? known: ema_twin, frozen"
        ):
            discovered().get("reference", "ema_twn")

    @pytest.mark.parametrize(("kind", "name", "package"), [("objective", "popo", "rlvr-popo"), ("credit", "gae", "rlvr-ppo")])
    def test_a_missing_package_of_ours_is_named_with_its_install_commands(self, kind: str, name: str, package: str) -> None:
        with pytest.raises(UnknownComponent) as caught:
            discovered().get(kind, name)
        assert f"pip install {package}" in str(caught.value)
        assert f"pip install -e plugins/{package.removeprefix('rlvr-')}" in str(caught.value)

    def test_a_name_of_another_kind_does_not_count(self) -> None:
        with pytest.raises(UnknownComponent, match="no sampler is named 'kl'"):
            discovered().get("sampler", "kl")


class TestGoodPlugins:
    """A stranger's package is a plugin like any other."""

    def test_a_plugin_is_found_with_its_distribution_and_version(self, installed: Installed) -> None:
        found = discovered(installed(HEAD + SAMPLER.format(target="a:B"))).get("sampler", "mine")
        assert (found.distribution, found.version, found.target) == ("rlvr-some", "1.2", "a:B")

    def test_finding_a_plugin_does_not_import_its_classes(self, installed: Installed) -> None:
        row = installed(HEAD + SAMPLER.format(target="does_not_exist:B"))
        assert discovered(row).get("sampler", "mine").name == "mine"

    def test_one_name_may_stand_in_two_kinds(self, installed: Installed) -> None:
        losses = SAMPLER.replace("samplers", "losses").format(target="a:B")
        found = discovered(installed(HEAD + SAMPLER.format(target="a:B") + losses))
        assert found.get("sampler", "mine").kind == "sampler"
        assert found.get("loss", "mine").kind == "loss"

    def test_two_plugins_of_one_distribution_both_count(self, installed: Installed) -> None:
        other = SAMPLER.format(target="a:B").replace('"mine", "a:B"', '"other", "a:B"')
        rows = installed(HEAD + SAMPLER.format(target="a:B"), module="one_plugin"), installed(HEAD + other, module="other_plugin")
        assert {"mine", "other"} <= set(discovered(*rows).names("sampler"))


class TestBrokenPlugins:
    """Loud errors: each names the plugin's distribution and what is wrong."""

    @pytest.mark.parametrize("source", ["import nowhere_to_be_found", "1 / 0", "def broken(:", "import sys; sys.exit(3)"])
    def test_a_plugin_that_does_not_import_is_named_with_the_cause(self, installed: Installed, source: str) -> None:
        message = refusal(installed(source))
        assert "plugin 'some' of rlvr-some 1.2 did not import" in message
        assert any(cause in message for cause in ("nowhere_to_be_found", "ZeroDivisionError", "SyntaxError", "SystemExit"))
        assert "pip uninstall rlvr-some" in message

    def test_a_plugin_without_an_api_version_is_refused(self, installed: Installed) -> None:
        message = refusal(installed(HEAD.replace("RLVR_API", "API") + SAMPLER.format(target="a:B")))
        assert "rlvr-some 1.2 states no RLVR_API" in message
        assert f"speaks API {API_VERSION}" in message

    def test_a_plugin_of_another_api_version_is_refused(self, installed: Installed) -> None:
        message = refusal(installed(HEAD.replace(f"RLVR_API = {API_VERSION}", "RLVR_API = 99") + SAMPLER.format(target="a:B")))
        assert "rlvr-some 1.2 was written for API 99" in message
        assert f"speaks API {API_VERSION}" in message

    def test_a_misspelt_hook_is_refused_and_the_right_one_suggested(self, installed: Installed) -> None:
        message = refusal(installed(HEAD + SAMPLER.format(target="a:B").replace("register_samplers", "register_smaplers")))
        assert "'register_smaplers'; did you mean 'register_samplers'?" in message
        assert "rlvr-some" in message

    def test_a_hook_without_its_mark_is_refused(self, installed: Installed) -> None:
        message = refusal(installed(HEAD + SAMPLER.format(target="a:B").replace("@hookimpl", "")))
        assert "rlvr-some 1.2 defines 'register_samplers' without @rlvr_core.hookimpl" in message

    def test_a_plugin_that_brings_nothing_is_refused(self, installed: Installed) -> None:
        source = HEAD + SAMPLER.format(target="a:B").replace("@hookimpl", "").replace("register_samplers", "register_smaplers")
        assert "rlvr-some 1.2 implements no hook" in refusal(installed(source))

    def test_a_hook_with_other_arguments_is_refused(self, installed: Installed) -> None:
        message = refusal(installed(HEAD + SAMPLER.format(target="a:B").replace("(register)", "(registry)")))
        assert "rlvr-some" in message
        assert "registry" in message

    def test_a_hook_that_raises_is_named_with_the_cause(self, installed: Installed) -> None:
        message = refusal(installed(HEAD + SAMPLER.format(target="a:B").replace('register("mine"', 'int("x"); register("mine"')))
        assert "rlvr-some 1.2: register_samplers failed: ValueError" in message

    def test_a_name_taken_by_another_distribution_is_an_error_naming_both(self, installed: Installed) -> None:
        source = HEAD + SAMPLER.format(target="a:B")
        rows = (
            installed(source, module="first_plugin", distribution="rlvr-first", version="1.0"),
            installed(source, module="second_plugin", distribution="rlvr-second", version="2.0"),
        )
        message = refusal(*rows)
        assert "sampler 'mine'" in message
        assert "rlvr-first 1.0" in message
        assert "rlvr-second 2.0" in message

    def test_a_name_taken_by_core_is_an_error_naming_both(self, installed: Installed) -> None:
        message = refusal(installed(HEAD + SAMPLER.format(target="a:B").replace('"mine", "a:B"', '"all", "a:B"')))
        assert "sampler 'all' is registered by both rlvr " in message
        assert "rlvr-some 1.2" in message

    def test_one_module_brought_by_two_distributions_is_an_error_naming_both(self, installed: Installed) -> None:
        entry, _, _ = installed(HEAD + SAMPLER.format(target="a:B"))
        message = refusal((entry, "rlvr-first", "1.0"), (entry, "rlvr-second", "2.0"))
        assert "rlvr-first 1.0" in message
        assert "rlvr-second 2.0" in message

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ("dict", "must be a subclass of rlvr_core.Options"),
            ("type('Bare', (Options,), {'__annotations__': {'size': int}})", "options without a description: size"),
            ("type('Named', (Options,), {'__annotations__': {'name': str}, 'name': option('x', 'd')})", "'name' is reserved"),
        ],
    )
    def test_options_that_are_not_up_to_the_contract_are_refused(self, installed: Installed, options: str, said: str) -> None:
        message = refusal(installed(HEAD + SAMPLER.format(target="a:B").replace("options=Nothing", f"options={options}")))
        assert said in message
        assert "rlvr-some" in message

    def test_an_objective_that_is_none_is_refused(self, installed: Installed) -> None:
        source = HEAD + "\n@hookimpl\ndef register_objectives(register):\n    register('mine', {'credit': {}}, summary='mine')\n"
        assert "objective 'mine' of rlvr-some: must be an rlvr_core.Objective" in refusal(installed(source))

    @pytest.mark.parametrize(
        ("target", "said"),
        [
            ("does_not_exist:B", "ModuleNotFoundError"),
            ("rlvr_core.contracts:Nowhere", "AttributeError"),
            ("rlvr_core.contracts:Loss", "not a subclass of rlvr_core.contracts.Sampler"),
            ("rlvr_core.contracts:KINDS", "not a subclass of rlvr_core.contracts.Sampler"),
        ],
    )
    def test_a_class_that_cannot_be_used_is_named_when_it_is_needed(self, installed: Installed, target: str, said: str) -> None:
        component = discovered(installed(HEAD + SAMPLER.format(target=target))).get("sampler", "mine")
        with pytest.raises(PluginLoadError) as caught:
            component.load()
        assert "sampler 'mine' of rlvr-some 1.2" in str(caught.value)
        assert said in str(caught.value)
