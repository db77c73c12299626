"""What the documents say is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from metric_docs import undocumented

from rlvr_core.contracts import KINDS
from rlvr_core.hookspecs import Hooks
from rlvr_core.testing.kit import CHECKS

ROOT = Path(__file__).parent.parent
PAGES = [
    p
    for p in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in ("runs", "build") for part in p.relative_to(ROOT).parts)
]


def literal_metrics() -> list[str]:
    """Names that code logs, read from its text: log("..."), metrics {"a/b": ...}."""
    found = set()
    for file in [*ROOT.glob("rlvr_core/**/*.py"), *ROOT.glob("plugins/*/rlvr_*/**/*.py")]:
        text = file.read_text()
        found |= set(re.findall(r'\.log\(f?"([^"]+)"', text))
        found |= set(
            re.findall(
                r'f?"((?:reward|select|rollout|learn|loss|kl|credit|correction|policy|popo|grpo|ppo|time|memory)/[^"]+)"', text
            )
        )
    made_up = {"loss/x", "time/x"}  # of terms and stages; the rows of real runs are looked at in test_running.py
    return sorted({re.sub(r"\{[^}]*\}", "x", name) for name in found} - made_up)


def test_every_metric_that_code_names_is_described() -> None:
    names = literal_metrics()
    assert len(names) > 25
    assert undocumented(names) == []


def test_a_new_metric_would_be_missed() -> None:
    assert undocumented(["popo/undescribed"]) == ["popo/undescribed"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_kind_has_its_hook_and_every_hook_says_what_it_is_for() -> None:
    hooks = {name: hook for name, hook in vars(Hooks).items() if name.startswith("register_")}
    assert set(hooks) == {kind.hook for kind in KINDS.values()}
    assert all(hook.__doc__ for hook in hooks.values())


def test_the_page_on_the_kit_has_a_row_for_every_check_with_what_it_says() -> None:
    rows = (ROOT / "docs/conformance.md").read_text()
    for check in {check for checks in CHECKS.values() for check in checks}:
        said = " ".join(str(check.__doc__).split()).replace("``", "`")
        assert f"| {check.__name__.replace('_', ' ')} |" in rows and said in rows, check.__name__
