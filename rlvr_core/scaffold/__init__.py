"""A plugin package to start from: ``rlvr plugins new``. Imports no torch.

``templates/KIND`` holds what differs between kinds, ``templates/common`` what does not; each file is a ``string.Template``.
"""

from __future__ import annotations

from rlvr_core.scaffold.package import Package, new_package
from rlvr_core.scaffold.recipes import RECIPES

__all__ = ["RECIPES", "Package", "new_package"]
