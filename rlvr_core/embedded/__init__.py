"""The embedded default's model: made on this machine in about half a minute, then kept."""

from __future__ import annotations

from rlvr_core.embedded.cache import embedded_model
from rlvr_core.embedded.tokenizer import embedded_tokenizer
from rlvr_core.embedded.warm_start import Recipe

__all__ = ["Recipe", "embedded_model", "embedded_tokenizer"]
