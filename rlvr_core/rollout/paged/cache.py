"""Keys and values of a model's layers in pages, and the attention that reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from rlvr_core.rollout.cache import RowsCache
from rlvr_core.rollout.paged.attention import attend
from rlvr_core.rollout.paged.pages import PAGE

IMPLEMENTATION = "rlvr_pages"
"""Our attention's name among transformers' implementations. Without a mask function of that name, models make no mask."""
PAGES = "rlvr_pages"
"""The attribute under which a layer's modules find its pages: (keys, values, window)."""
UNKNOWN = ("s_aux", "position_bias")
"""What some models hand to their attention and ours knows nothing of."""


class PagedLayer(CacheLayerMixin):
    """Stands for a layer; its tensors are the cache's."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class PagedCache(Cache):
    """``keys``, ``values``: a tensor [pages,K,PAGE,D] each layer. ``tables``, ``lengths``: where the rows of a batch stand, see ``attend``.

    ``like``: a cache of the same model with something in it; ``dtype``: the pages', where it is another than that one's (autocast's).
    """

    tables: Tensor
    lengths: Tensor

    def __init__(self, windows: Sequence[int | None], like: RowsCache, pages: int, dtype: torch.dtype | None) -> None:
        super().__init__(layers=[PagedLayer() for _ in windows])  # type: ignore[no-untyped-call]
        self.windows = windows
        self.keys, self.values = ([_pool(states, pages, dtype) for states in kind] for kind in _states(like))
        self.attention = self._attention  # one object, or compiled code would be compiled again

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Hands the newest tokens' states on to attention, which puts them into their pages."""
        return key_states, value_states

    def place(self, cache: RowsCache, copies: Sequence[tuple[int, int, int]]) -> None:
        """Copy pages out of a prefilled cache, whose columns fill whole ones: (row, number of the page in it, page) each."""
        row, number, page = torch.tensor(copies, dtype=torch.int64).to(self.keys[0].device).T
        for pools, kind in zip((self.keys, self.values), _states(cache), strict=True):
            for pool, states in zip(pools, kind, strict=True):
                pool[page] = states.unflatten(2, (-1, PAGE))[row, :, number].to(pool.dtype)

    @contextmanager
    def attended(self, model: PreTrainedModel, alike: bool = False) -> Iterator[None]:
        """Within, the model's attention is ours, over these pages. ``alike``: every layer's number is 0, so that code that was compiled for
        one serves for all; neither cache nor attention asks for it."""
        AttentionInterface.register(IMPLEMENTATION, self.attention)
        own = model.config._attn_implementation
        model.config._attn_implementation = IMPLEMENTATION
        of_layers = list(zip(self.keys, self.values, self.windows, strict=True))
        numbered = [module for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int)]
        modules = [module for module in numbered if module.layer_idx < len(of_layers)]  # type: ignore[operator]
        numbers = [(module, module.layer_idx) for module in modules]
        for module, number in numbers:
            vars(module)[PAGES] = of_layers[number]  # type: ignore[index]
            module.layer_idx = 0 if alike else number  # type: ignore[assignment]
        try:
            yield
        finally:
            model.config._attn_implementation = own
            AttentionInterface.register(IMPLEMENTATION, _absent)  # there is no taking it out, and it would keep the pages
            for module, number in numbers:
                del vars(module)[PAGES]
                module.layer_idx = number

    def _attention(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        scaling: float | None = None,
        **more: Any,
    ) -> tuple[Tensor, None]:
        """What transformers' models call: states [R,heads,1,D]."""
        if strange := [name for name in UNKNOWN if more.get(name) is not None]:
            raise NotImplementedError(f"attention with {', '.join(strange)}")
        keys, values, window = module.rlvr_pages
        q, k, v = (states[:, :, 0].to(keys.dtype) for states in (query, key, value))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        found: Tensor = attend(q, k, v, keys, values, self.tables, self.lengths, scale, more.get("softcap"), window)
        return found[:, None], None


def _absent(*_: Any, **__: Any) -> Any:
    raise RuntimeError("attention over pages is there while a batch is decoded only")


def _states(cache: RowsCache) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of each layer: [R,K,S,D]."""
    return [_there(layer.keys) for layer in cache.of_rows], [_there(layer.values) for layer in cache.of_rows]


def _there(states: Tensor | None) -> Tensor:
    if states is None:
        raise NotImplementedError("a layer that caches nothing")
    return states


def _pool(like: Tensor, pages: int, dtype: torch.dtype | None) -> Tensor:
    """Zeros: what is masked must be finite."""
    return like.new_zeros(pages, like.shape[1], PAGE, like.shape[3], dtype=dtype or like.dtype)
