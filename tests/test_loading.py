"""Models and tokenizers: what is saved comes back, and what cannot be loaded says why in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    ViTConfig,
)

from rlvr_core.errors import ModelError
from rlvr_core.policy import loading
from rlvr_core.policy.loading import auto_tokenizer_agrees, end_token_ids, load_model, load_tokenizer, round_trips, save_model

SPECIAL = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
WORDS = ["<pad>", "<end>", "<unk>", "the", "answer", "is", "twelve", "plus", "="]


def word_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token=SPECIAL["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}="
    return tokenizer


def byte_tokenizer() -> Qwen2Tokenizer:
    """Byte-level, as Qwen2's own: AutoTokenizer rebuilds this one faithfully."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return Qwen2Tokenizer(vocab={letter: n for n, letter in enumerate(letters)} | {"<|endoftext|>": 256}, merges=[])


def qwen2(**changes: Any) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=300, **(sizes | changes))).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as a run leaves it: Qwen2 beside a word-level vocabulary."""
    save_model(qwen2(), word_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


INPUT = torch.tensor([[3, 4, 5, 6]])


# ------------------------------------------------------------------------------------------------------------ tokenizers


def test_a_word_level_tokenizer_beside_a_qwen2_model_comes_back(folder: Path) -> None:
    """AutoTokenizer alone builds another tokenizer here, which makes nothing of the text."""
    text = "the answer is twelve"
    assert AutoTokenizer.from_pretrained(str(folder))(text)["input_ids"] != [3, 4, 5, 6]
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer(text)["input_ids"] == [3, 4, 5, 6]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<end>", "<pad>")
    assert tokenizer.chat_template == word_tokenizer().chat_template
    assert not auto_tokenizer_agrees(folder)


def test_a_tokenizer_that_auto_rebuilds_faithfully_is_autos(tmp_path: Path) -> None:
    save_model(qwen2(), byte_tokenizer(), tmp_path / "model")
    tokenizer = load_tokenizer(str(tmp_path / "model"))
    assert isinstance(tokenizer, Qwen2Tokenizer)
    assert auto_tokenizer_agrees(tmp_path / "model")
    assert round_trips(tokenizer, "Übung: 2+2=4 \\boxed{}\n")


def test_a_tokenizer_that_decodes_otherwise_is_noticed(tmp_path: Path) -> None:
    """The same ids are not enough: rewards see decoded text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    backend.normalizer = byte_tokenizer().backend_tokenizer.normalizer
    backend.pre_tokenizer = byte_tokenizer().backend_tokenizer.pre_tokenizer
    backend.decoder = decoders.Fuse()
    save_model(qwen2(), PreTrainedTokenizerFast(tokenizer_object=backend), tmp_path / "model")
    assert not auto_tokenizer_agrees(tmp_path / "model")
    assert load_tokenizer(str(tmp_path / "model")).decode([letters.index("Ġ")]) == "Ġ"


def test_round_trips_tells_a_vocabulary_that_loses_text() -> None:
    assert round_trips(word_tokenizer(), "the  answer\nis twelve")
    assert not round_trips(word_tokenizer(), "the answer is thirteen")


def test_a_folder_without_tokenizer_files_holds_no_tokenizer(folder: Path) -> None:
    """AutoTokenizer makes an empty one up."""
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load_tokenizer(str(folder))


def test_a_damaged_tokenizer_file_is_a_model_error(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="the tokenizer cannot be loaded") as caught:
        load_tokenizer(str(folder))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------- models


def test_a_saved_model_comes_back_with_the_same_log_probs(folder: Path) -> None:
    loaded = load_model(str(folder))
    plain = AutoModelForCausalLM.from_pretrained(str(folder))
    with torch.no_grad():
        assert torch.equal(loaded(INPUT).logits, qwen2()(INPUT).logits)
        assert torch.equal(plain(INPUT).logits, qwen2()(INPUT).logits)
    assert not loaded.training


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_dtype_is_the_one_asked_for(folder: Path, dtype: str) -> None:
    assert {p.dtype for p in load_model(str(folder), dtype=dtype).parameters()} == {getattr(torch, dtype)}


def test_the_attention_implementation_is_the_one_asked_for(folder: Path) -> None:
    assert load_model(str(folder), attn_implementation="eager").config._attn_implementation == "eager"


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    save_model(qwen2(tie_word_embeddings=True), word_tokenizer(), tmp_path / "model")
    loaded: Any = load_model(str(tmp_path / "model"))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


@pytest.mark.parametrize(
    "model",
    [
        qwen2(attention_dropout=0.5),
        GPT2LMHeadModel(
            GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=300, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
        ),
    ],
    ids=["qwen2", "gpt2"],
)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_training_mode_computes_what_evaluation_mode_does(tmp_path: Path, model: Any, attention: str) -> None:
    """Dropout is off for good, not only until something calls train()."""
    save_model(model, word_tokenizer(), tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"), attn_implementation=attention)
    with torch.no_grad():
        expected = loaded(INPUT).logits
        assert torch.equal(loaded.train()(INPUT).logits, expected)


def test_a_folder_saved_over_is_replaced_whole(folder: Path) -> None:
    (folder / "stale.txt").write_text("from before")
    save_model(qwen2(num_hidden_layers=1), word_tokenizer(), folder)
    assert not (folder / "stale.txt").exists()
    assert load_model(str(folder)).config.num_hidden_layers == 1
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_what_stood_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(path.name for path in folder.iterdir())

    def fails(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    tokenizer = word_tokenizer()
    monkeypatch.setattr(tokenizer, "save_pretrained", fails)
    with pytest.raises(ModelError, match=r"cannot be written: .*No space left"):
        save_model(qwen2(), tokenizer, folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_rename_that_fails_puts_the_old_folder_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fails_for_the_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new)
    with pytest.raises(ModelError, match="Permission denied"):
        save_model(qwen2(num_hidden_layers=1), word_tokenizer(), folder)
    assert load_model(str(folder)).config.num_hidden_layers == 2


def test_weights_given_apart_are_those_that_are_saved(tmp_path: Path) -> None:
    """A sharded model does not hold its weights whole."""
    weights = {name: torch.zeros_like(value) for name, value in qwen2().state_dict().items()}
    save_model(qwen2(), word_tokenizer(), tmp_path / "model", state_dict=weights)
    assert all(not p.any() for p in load_model(str(tmp_path / "model")).parameters())


def test_a_contradictory_generation_config_is_mended_at_the_start_and_not_found_at_the_end(folder: Path, tmp_path: Path) -> None:
    """transformers loads a temperature without do_sample, and refuses to save it."""
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 2]}))
    model = load_model(str(folder))
    save_model(model, load_tokenizer(str(folder)), tmp_path / "again")
    saved = GenerationConfig.from_pretrained(str(tmp_path / "again"))
    assert (saved.temperature, saved.top_p, saved.eos_token_id) == (0.6, 0.9, [1, 2])


# ---------------------------------------------------------------------------------------------------- what cannot be used


def failure(name: str, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert name in message or options
    return message


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "runs/popo/model"])
def test_a_folder_that_is_not_there_says_where_it_was_looked_for(name: str) -> None:
    assert "no such folder (looked in " in failure(name)
    with pytest.raises(ModelError, match="no such folder"):
        load_tokenizer(name)


def test_an_empty_name_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"model.name is empty"):
        load_model("")


def test_a_file_is_no_model_folder(folder: Path) -> None:
    assert "is a file; name the folder" in failure(str(folder / "config.json"))


def test_a_folder_without_a_config_is_no_model_folder(tmp_path: Path) -> None:
    assert "not a model folder, it has no config.json" in failure(str(tmp_path))


def test_pickled_weights_are_refused_with_the_way_to_convert_them(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has a config.json but no weights" in failure(str(folder))
    torch.save(qwen2().state_dict(), folder / "pytorch_model.bin")
    message = failure(str(folder))
    assert "pytorch_model.bin" in message
    assert "save_pretrained" in message


def test_missing_weights_are_refused_and_not_drawn_at_random(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    assert "1 weights of the model are not in its files (model.layers.1.mlp.down_proj.weight)" in failure(str(folder))


def test_damaged_weights_are_a_model_error(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert "its safetensors file is damaged" in failure(str(folder))


def test_a_model_that_generates_no_text_is_refused(folder: Path) -> None:
    ViTConfig().save_pretrained(str(folder))
    assert "a vit model, which is no causal language model" in failure(str(folder))


def test_a_config_that_is_no_json_is_a_model_error(folder: Path) -> None:
    (folder / "config.json").write_text("{damaged")
    assert "the model cannot be loaded" in failure(str(folder))


def test_code_of_a_repository_does_not_run_unasked(folder: Path) -> None:
    code = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nraise RuntimeError('ran')\n"
    (folder / "mine.py").write_text(code)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}})
    )
    assert "set model.trust_remote_code: true" in failure(str(folder))
    assert not (folder / "ran").exists()


def test_options_that_do_not_exist_are_named(folder: Path) -> None:
    assert "no dtype is named 'float33'; did you mean 'float32'" in failure(str(folder), dtype="float33")
    assert "attn_implementation" in failure(str(folder), attn_implementation="flash")


def test_a_hub_name_without_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "hub_in_reach", lambda: False)
    assert "neither in the cache nor can the hub be reached" in failure("nobody/nothing")
    with pytest.raises(ModelError, match="as a tokenizer of the hub it is neither in the cache"):
        load_tokenizer("nobody/nothing")


# ------------------------------------------------------------------------------------------------------------ end tokens


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        (5, None, (5, 1)),
        ([5, 6], 7, (5, 6, 1)),
        (None, 7, (7, 1)),
        (None, [7, 8], (7, 8, 1)),
        (None, None, (1,)),
        (1, None, (1,)),
        ([99_999, 5], None, (5, 1)),
        (0, None, (0, 1)),
    ],
)
def test_end_tokens_are_those_of_model_and_tokenizer(generation: Any, config: Any, expected: tuple[int, ...]) -> None:
    model = qwen2()
    assert model.generation_config is not None
    model.generation_config.eos_token_id, model.config.eos_token_id = generation, config
    assert end_token_ids(model, word_tokenizer()) == expected


@pytest.mark.parametrize(
    ("configured", "said"), [(None, "name a token that ends"), (99_999, r"only \[99999\], beyond the vocabulary of 300")]
)
def test_a_model_that_cannot_end_is_an_error(configured: int | None, said: str) -> None:
    model, tokenizer = qwen2(), word_tokenizer()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = model.config.eos_token_id = configured
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match=said):
        end_token_ids(model, tokenizer)


def test_a_moved_folder_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    """Nothing in it names the place it was written to."""
    shutil.move(str(folder), str(tmp_path / "elsewhere"))
    assert load_tokenizer(str(tmp_path / "elsewhere"))("the")["input_ids"] == [3]
    assert str(folder) not in "".join(path.read_text() for path in (tmp_path / "elsewhere").glob("*.json"))
