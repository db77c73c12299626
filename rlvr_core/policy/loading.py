"""Models and tokenizers, from a folder or the hub and back into a folder. Weights travel as safetensors only."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlvr_core.errors import ModelError, nearest
from rlvr_core.tasks.hub import hub_in_reach, looks_local

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}

_PROBES = (
    "What is 12 + 34.5? The answer is \\boxed{46.5}.",
    "def f(x):\n    return x**2  # \"quoted\", 'single'\n\n\tEnd; a_b/c-d <tag> 1,000 $5 50%",
    "Ünïcode: 中文 Ωμέγα ½ 😀",
)
"""Texts on which two tokenizers are compared; words of the vocabulary join them."""

_LOAD_ERRORS = (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError, RuntimeError)
"""What transformers raises for folders that are not what they should be. All of it means: this cannot be loaded."""


def load_tokenizer(name_or_path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name, as its tokenizer.json has it.

    ``AutoTokenizer`` chooses a class by the model's type and may rebuild another tokenizer than the one that was saved (for a
    word-level vocabulary beside a Qwen2 model it gives empty ids). Where its result disagrees with tokenizer.json, the file is
    loaded as it stands. Raises ModelError.
    """
    place = _resolve(name_or_path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place.name, trust_remote_code=trust_remote_code, local_files_only=place.offline
        )
        file = _tokenizer_file(place)
        if file is not None and _is_transformers_own(tokenizer) and not _agrees(tokenizer, file):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(place.name, local_files_only=place.offline)
    except _LOAD_ERRORS as error:
        raise ModelError(place.explain("tokenizer", error)) from error
    except Exception as error:  # the tokenizers library raises bare Exception for a file it cannot read
        if type(error) is not Exception:
            raise
        raise ModelError(place.explain("tokenizer", error)) from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ModelError(
            f"{name_or_path}: holds no tokenizer; put the model's tokenizer files (tokenizer.json, tokenizer_config.json) there"
        )
    return tokenizer


def load_model(
    name_or_path: str,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal language model of a folder or hub name, on the CPU, in evaluation mode, with every dropout set to 0.

    ``dtype``: one of ``DTYPES``, whatever the weights were saved in. Raises ModelError: nothing there, not a causal language model,
    no safetensors, weights missing.
    """
    if dtype not in DTYPES:
        raise ModelError(f"no dtype is named '{dtype}'; {nearest(dtype, DTYPES)}")
    place = _resolve(name_or_path)
    place.refuse_pickles()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place.name,
            dtype=DTYPES[dtype],
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            local_files_only=place.offline,
            use_safetensors=True,
            output_loading_info=True,
        )
    except _LOAD_ERRORS as error:
        raise ModelError(place.explain("model", error)) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise ModelError(f"{name_or_path}: its safetensors file is damaged ({error}); copy or download it again") from error
    model: PreTrainedModel = loaded[0]
    _refuse_missing(name_or_path, loaded[1]["missing_keys"])
    _make_saveable(name_or_path, model)
    disable_dropout(model)
    model.eval()
    return model


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability to 0, so that training mode (gradient checkpointing needs it) computes what evaluation mode does.

    The config keeps its values and is saved with them.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or "layerdrop" in name):
                setattr(module, name, 0.0)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that end a completion: those of the generation config (of the config where that has none), and the tokenizer's.

    Ids beyond the vocabulary can never be sampled and are left out. Raises ModelError where none remains.
    """
    configured = _ids(getattr(model.generation_config, "eos_token_id", None)) or _ids(getattr(model.config, "eos_token_id", None))
    vocabulary = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    found = dict.fromkeys([*configured, *_ids(tokenizer.eos_token_id)])
    ids = tuple(token for token in found if 0 <= token < vocabulary)
    if not ids:
        beyond = f" (only {list(found)}, beyond the vocabulary of {vocabulary})" if found else ""
        raise ModelError(
            "neither the model's generation_config.json and config.json nor its tokenizer name a token that ends a completion"
            f"{beyond}; set eos_token_id in generation_config.json"
        )
    return ids


def round_trips(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether decoding the text's ids gives the text back, white space aside."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    back = cast(str, tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return "".join(back.split()) == "".join(text.split())


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write model (safetensors), generation config and tokenizer, so that ``AutoModelForCausalLM`` and ``load_tokenizer`` read them back.

    Written beside the folder and renamed into place: at no time is the folder half a model. A folder that stood there is replaced.
    ``state_dict``: the weights where the model does not hold them whole (sharded). Raises ModelError where it cannot be written.
    """
    target = Path(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {error}") from error
    try:
        fresh = scratch / "new"
        model.save_pretrained(fresh, state_dict=None if state_dict is None else dict(state_dict))
        tokenizer.save_pretrained(fresh)
        _replace(target, fresh, scratch / "old")
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(target: Path, fresh: Path, aside: Path) -> None:
    """Put ``fresh`` where ``target`` is; what stood there comes back if that fails."""
    stood = target.exists()
    if stood:
        target.rename(aside)
    try:
        fresh.rename(target)
    except OSError:
        if stood:
            aside.rename(target)
        raise


def auto_tokenizer_agrees(folder: str | Path) -> bool:
    """Whether plain ``AutoTokenizer`` reads a saved folder's tokenizer back as tokenizer.json has it (it may not: see load_tokenizer)."""
    file = Path(folder) / "tokenizer.json"
    return not file.exists() or _agrees(AutoTokenizer.from_pretrained(str(folder)), file)


class _Place:
    """Where a model is: a folder, or a hub name that the network or the cache holds."""

    def __init__(self, given: str, name: str, offline: bool) -> None:
        self.given, self.name, self.offline = given, name, offline
        self.is_folder = Path(name).is_dir()

    def refuse_pickles(self) -> None:
        """A local folder must hold safetensors. (A hub repository without them fails later, in ``explain``.)"""
        folder = Path(self.name)
        if not self.is_folder or not (folder / "config.json").exists():
            return
        if any(folder.glob("*.safetensors")):
            return
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        if pickles:
            raise ModelError(
                f"{self.given}: holds its weights as {pickles[0]} (a pickle, which may run code when read), not as safetensors; "
                'convert it once: python -c "from transformers import AutoModelForCausalLM as A; '
                f'A.from_pretrained({self.given!r}).save_pretrained({self.given!r})"'
            )
        raise ModelError(f"{self.given}: has a config.json but no weights; put the model's *.safetensors there")

    def explain(self, what: str, error: Exception) -> str:
        """Why it could not be loaded, in one line with a way out."""
        said = " ".join(str(error).split())
        if self.offline:
            return (
                f"{self.given}: no such folder here, and as a {what} of the hub it is neither in the cache nor can the hub be reached; "
                "check the name and the network, or name a local folder"
            )
        if "custom code" in said or "trust_remote_code" in said:
            return (
                f"{self.given}: needs code of its own repository to run; read that code, then set model.trust_remote_code: true"
            )
        if "Unrecognized configuration class" in said:
            return f"{self.given}: a {_model_type(self)} model, which is no causal language model; name one that generates text"
        if self.is_folder and not (Path(self.name) / "config.json").exists():
            return f"{self.given}: not a model folder, it has no config.json; name the folder that holds config.json and *.safetensors"
        if "safetensors" in said and "no file named" in said:
            return f"{self.given}: has no safetensors weights; name a model that has them, or convert it (save_pretrained writes them)"
        return f"{self.given}: the {what} cannot be loaded: {type(error).__name__}: {said[:300]}"


def _resolve(given: str) -> _Place:
    """Folder or hub name. Raises ModelError for what can only be a folder and is none."""
    if not given:
        raise ModelError("model.name is empty; name a model folder, or a hub name such as owner/model")
    path = Path(given).expanduser()
    if path.is_dir():
        return _Place(given, str(path), offline=False)
    if path.exists():
        raise ModelError(f"{given}: is a file; name the folder that holds config.json and *.safetensors")
    if looks_local(given):
        raise ModelError(
            f"{given}: no such folder (looked in {Path.cwd()}); name a model folder, or a hub name such as owner/model"
        )
    return _Place(given, given, offline=not hub_in_reach())


def _model_type(place: _Place) -> str:
    try:
        return str(json.loads((Path(place.name) / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError):
        return "different"


def _refuse_missing(name: str, missing: Any) -> None:
    """Weights that a checkpoint lacks would be random numbers."""
    if missing:
        first = ", ".join(sorted(missing)[:3])
        raise ModelError(
            f"{name}: {len(missing)} weights of the model are not in its files ({first}{' ...' if len(missing) > 3 else ''}) "
            "and would be random; name a complete causal language model"
        )


def _make_saveable(name: str, model: PreTrainedModel) -> None:
    """Some published generation configs (a temperature with do_sample off) are refused on saving: at the end of a run. Mend them now."""
    config = model.generation_config
    if config is None or _is_valid(config):
        return
    config.do_sample = True
    if not _is_valid(config):
        raise ModelError(
            f"{name}: its generation_config.json is contradictory and could not be saved with the trained model; correct or remove it"
        )


def _is_valid(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True


def _tokenizer_file(place: _Place) -> Path | None:
    """The tokenizer.json of a folder, or of a hub repository in the cache."""
    if place.is_folder:
        file = Path(place.name) / "tokenizer.json"
        return file if file.exists() else None
    from transformers.utils.hub import cached_file

    found = cached_file(place.name, "tokenizer.json", local_files_only=place.offline, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _is_transformers_own(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Not code of the model's repository: that one knows better than its files."""
    return type(tokenizer).__module__.startswith("transformers.")


def _agrees(tokenizer: PreTrainedTokenizerBase, file: Path) -> bool:
    """Whether a tokenizer encodes and decodes as its tokenizer.json does, special tokens that it adds by itself aside."""
    from tokenizers import Tokenizer

    saved = Tokenizer.from_file(str(file))
    saved.no_padding()
    saved.no_truncation()
    for text in (*_PROBES, *_own_words(saved)):
        ids = saved.encode(text, add_special_tokens=False).ids
        if tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            return False
        back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if back != saved.decode(ids, skip_special_tokens=False):
            return False
    return True


def _own_words(saved: Any) -> list[str]:
    """A text of the vocabulary's own words, and one of its added tokens."""
    vocabulary = sorted(saved.get_vocab(with_added_tokens=False), key=len, reverse=True)
    step = max(1, len(vocabulary) // 50)
    added = [token.content for token in saved.get_added_tokens_decoder().values()]
    return [" ".join(vocabulary[::step][:50]), "a".join(added[:50])]


def _ids(value: Any) -> list[int]:
    """An id, several or none, as a list."""
    if value is None:
        return []
    return [int(value)] if isinstance(value, int) else [int(token) for token in value]
