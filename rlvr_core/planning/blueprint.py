"""The policy without numbers, from its config."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from rlvr_core.errors import ModelError
from rlvr_core.policy.loading import DTYPES
from rlvr_core.setup import EMBEDDED
from rlvr_core.spec.model import ModelSection
from rlvr_core.tasks.hub import hub_in_reach, looks_local


def blueprint(options: ModelSection) -> PreTrainedModel:
    """The policy on the meta device: every shape, no numbers. Raises ModelError where its config cannot be read."""
    try:
        with torch.device("meta"):
            model = _embedded() if options.name == EMBEDDED else _from_config(options)
    except Exception as error:  # configs and model code of others fail in every way; all of it means: not known before loading
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{options.name}: its config cannot be read ({type(error).__name__}: {said}); check model.name"
        ) from error
    return cast(PreTrainedModel, cast(Any, model).to(DTYPES[options.dtype]))


def _embedded() -> PreTrainedModel:
    from rlvr_core.embedded.tokenizer import embedded_tokenizer
    from rlvr_core.embedded.warm_start import Recipe, fresh_model

    return fresh_model(Recipe(), embedded_tokenizer())


def _from_config(options: ModelSection) -> PreTrainedModel:
    config = _config(options)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=options.trust_remote_code)
    return model


def _config(options: ModelSection) -> PreTrainedConfig:
    """From a folder, the cache, or the hub where it is in reach."""
    folder = Path(options.name).expanduser()
    name = str(folder) if folder.is_dir() else options.name
    if looks_local(name) and not folder.is_dir():
        raise FileNotFoundError("no such folder")

    def read(offline: bool) -> PreTrainedConfig:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            name, trust_remote_code=options.trust_remote_code, local_files_only=offline
        )
        return config

    try:
        return read(offline=True)
    except OSError:
        if folder.is_dir() or not hub_in_reach():
            raise
        return read(offline=False)
