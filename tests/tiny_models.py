"""Tiny random models of many architectures, a policy handle around one, and the transformers engine on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Cohere2Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from rlvr_core.components.options import TransformersEngineOptions
from rlvr_core.rollout.transformers_engine import TransformersEngine
from rlvr_core.testing import tiny_tokenizer

WINDOW = 6
COMMON = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.4,
    "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def made(config: type[Any], without: tuple[str, ...] = (), attention: str | None = None, **changes: Any) -> PreTrainedModel:
    """A random model; norms are moved off 1 so that nothing is the identity by chance."""
    settings = {name: value for name, value in {**COMMON, **changes}.items() if name not in without}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(**settings), attn_implementation=attention).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name and parameter.dim() == 1:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model  # type: ignore[no-any-return]


GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 2}
SOFTCAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0, "attention": "eager"}

ATTENTION: Mapping[str, Callable[[], PreTrainedModel]] = {
    "qwen2": lambda: made(Qwen2Config),
    "qwen2 with windows": lambda: made(Qwen2Config, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": lambda: made(Qwen3Config),
    "llama": lambda: made(LlamaConfig),
    "llama eager": lambda: made(LlamaConfig, attention="eager"),
    "mistral": lambda: made(MistralConfig, sliding_window=WINDOW),
    "gemma2": lambda: made(Gemma2Config, sliding_window=WINDOW, **SOFTCAPS),
    "gemma3": lambda: made(Gemma3TextConfig, sliding_window=WINDOW, num_hidden_layers=6),
    "phi3": lambda: made(Phi3Config, sliding_window=WINDOW),
    "olmo2": lambda: made(Olmo2Config),
    "cohere2": lambda: made(Cohere2Config, sliding_window=WINDOW),
    "gpt-neox": lambda: made(GPTNeoXConfig),
    "gpt2": lambda: made(GPT2Config, **GPT2),
    "opt": lambda: made(OPTConfig, ffn_dim=32, word_embed_proj_dim=16),
    "bloom": lambda: made(BloomConfig, n_layer=3, n_head=2),
    "llama4 in chunks": lambda: made(Llama4TextConfig, attention_chunk_size=WINDOW, num_local_experts=2, intermediate_size_mlp=32),
}  # fmt: skip
"""Models that cache keys and values."""

EXPERTS: Mapping[str, Callable[[], PreTrainedModel]] = {"mixtral": lambda: made(MixtralConfig, num_local_experts=4)}
"""These multiply in float32 at most."""

OTHERS: Mapping[str, Callable[[], PreTrainedModel]] = {
    "mamba": lambda: made(MambaConfig, state_size=4, num_hidden_layers=2),
    "qwen3-next": lambda: made(
        Qwen3NextConfig, num_hidden_layers=4, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16,
    ),
}  # fmt: skip
"""Models that cache something else."""


class Handle:
    """A policy handle around a bare model; counts forwards and the tokens they took in, padding included."""

    version, exact = 0, True

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.tokenizer = model, tiny_tokenizer()
        self.shapes: list[tuple[int, int]] = []

    def held(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @torch.no_grad()
    def decode(self, **inputs: Any) -> Any:
        self.shapes.append(tuple(inputs["input_ids"].shape))
        return self.model(**inputs)

    @torch.no_grad()
    def generate(self, **inputs: Any) -> Any:
        return self.model.generate(**inputs)  # type: ignore[operator]


def engine(model: PreTrainedModel, **options: Any) -> TransformersEngine:
    """The transformers engine, started on the model."""
    started = TransformersEngine(TransformersEngineOptions(**options))
    started.start(Handle(model))
    return started
