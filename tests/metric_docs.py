"""Reads docs/metrics.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def documented_metrics() -> list[re.Pattern[str]]:
    """Names in the tables of docs/metrics.md, with <label> for anything."""
    names = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    return [re.compile(re.sub(r"<\w+>", "[^/]+", re.escape(name).replace(r"\<", "<").replace(r"\>", ">"))) for name in names]


def undocumented(metrics: list[str]) -> list[str]:
    patterns = documented_metrics()
    return [name for name in metrics if not any(pattern.fullmatch(name) for pattern in patterns)]
