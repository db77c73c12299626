"""The embedded default: a task made on the spot, a tokenizer that comes back the same, a model made once and kept."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys
import threading
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlvr_core.embedded import Recipe, cache, embedded_model, embedded_tokenizer
from rlvr_core.embedded.cache import cache_root, key_of
from rlvr_core.embedded.demonstrations import demonstration
from rlvr_core.embedded.warm_start import IGNORED, completion_loss, encoded, fresh_model, warm_start
from rlvr_core.errors import DataError, ModelError
from rlvr_core.events import Event, Notice
from rlvr_core.tasks.arithmetic import ArithmeticTask, chain_of, is_held_out, prompt_of
from rlvr_core.tasks.options_arithmetic import RESERVED, ArithmeticOptions

BRIEF = Recipe(steps=3, batch_size=4, warmup=1, ramp=2, hidden_size=16, intermediate_size=16, layers=1, heads=2)
STEP = re.compile(r"(\d+)\+(\d)=(\d+)")
TEXTS = ["4+7+5=", " 4+7=11, 11+5=16 \\boxed{16}", "a , b . don't\n\n \t x  ", "\x00\x7f", "é 漢字 😀", "<|endoftext|>4+4=", ""]


def task(**options: float) -> ArithmeticTask:
    return ArithmeticTask(ArithmeticOptions(**options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_model(tmp_path_factory.mktemp("cache"), recipe=BRIEF)


@pytest.fixture(scope="module")
def reloaded(folder: Path) -> list[PreTrainedTokenizerBase]:
    return [AutoTokenizer.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)]


class TestTask:
    def test_no_held_out_operands_occur_in_training(self) -> None:
        trained = {example.prompt for example in task().train()}
        assert len(trained) > 5000
        assert not trained & {example.prompt for example in task(eval_problems=2500).evaluation()}

    def test_a_smaller_share_holds_out_a_subset(self) -> None:
        tuples = list(itertools.product(range(10), repeat=3))
        small, large = ({t for t in tuples if is_held_out(t, share)} for share in (0.1, 0.25))
        assert small < large
        assert len(large) == pytest.approx(250, abs=50)

    def test_problems_are_the_same_everywhere_and_always(self) -> None:
        """Figures written down here: another hash, or Python's own, would change them."""
        assert [example.prompt for example in task().train()[:4]] == ["1+6+4=", "5+0+2+4=", "3+7+9+1=", "9+7+3="]
        assert [example.prompt for example in task().evaluation()[:3]] == ["4+2+1=", "6+5+6+2=", "6+4+7="]
        assert task().train()[17] == task(train_problems=18).train()[-1]

    def test_ids_are_unique_and_golds_are_the_sums(self) -> None:
        examples = [*task().train()[:500], *task().evaluation()]
        assert len({example.id for example in examples}) == len(examples) == 500 + 512
        for example in examples:
            assert example.prompt == prompt_of(tuple(example.columns["operands"]))
            assert example.gold == str(sum(example.columns["operands"]))

    def test_training_problems_are_made_when_asked_for(self) -> None:
        problems = task(train_problems=10**15).train()
        assert len(problems) == 10**15
        assert problems[10**15 - 1] == problems[-1]
        with pytest.raises(IndexError):
            problems[10**15]

    def test_every_operand_count_occurs_about_equally_often(self) -> None:
        o = {"min_operands": 2, "max_operands": 5}
        for examples, counts in (
            (task(**o).train()[:2000], range(2, 6)),
            (task(**o, eval_problems=400).evaluation(), range(3, 6)),
        ):
            found = Counter(len(example.columns["operands"]) for example in examples)
            assert all(found[count] > 0.8 * len(examples) / 4 for count in counts)

    def test_held_out_problems_are_all_different(self) -> None:
        assert len({example.prompt for example in task().evaluation()}) == 512

    def test_long_chains_need_no_enumeration(self) -> None:
        assert len(task(min_operands=12, max_operands=12).evaluation()) == 512

    def test_no_held_out_problems_where_none_are_wanted(self) -> None:
        assert task(eval_problems=0).evaluation() == []

    def test_more_held_out_problems_than_there_are_is_an_error_with_a_way_out(self) -> None:
        with pytest.raises(DataError, match=r"eval_problems is 512, but only \d\d operand tuples.*raise held_out"):
            task(min_operands=2, max_operands=2).evaluation()

    @pytest.mark.parametrize(
        "options", [{"min_operands": 5}, {"held_out": 0.3}, {"held_out": 0.0}, {"min_operands": 1}, {"train_problems": 0}]
    )
    def test_impossible_options_are_refused(self, options: dict[str, float]) -> None:
        with pytest.raises(ValidationError):
            ArithmeticOptions(**options)

    def test_a_worked_chain_is_right_and_boxes_the_gold(self) -> None:
        assert chain_of((4, 7, 5)) == " 4+7=11, 11+5=16 \\boxed{16}"
        assert chain_of((4, 7, 5), [12, 17]) == " 4+7=12, 12+5=17 \\boxed{17}"

    def test_options_import_no_torch(self) -> None:
        code = "import sys, rlvr_core.tasks.options_arithmetic; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestTokenizer:
    @pytest.mark.parametrize("text", TEXTS)
    def test_a_saved_one_comes_back_the_same_through_both_loaders(
        self, reloaded: list[PreTrainedTokenizerBase], text: str
    ) -> None:
        made = embedded_tokenizer()
        for tokenizer in reloaded:
            assert tokenizer.encode(text) == made.encode(text)
            assert tokenizer.decode(made.encode(text)) == made.decode(made.encode(text)) == text
            assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (256, 256, 257)

    @settings(max_examples=50, deadline=None)
    @given(text=st.text())
    def test_any_text_comes_back_up_to_unicode_normalisation(self, reloaded: list[PreTrainedTokenizerBase], text: str) -> None:
        normal = unicodedata.normalize("NFC", text)
        for tokenizer in reloaded:
            ids = tokenizer.encode(text)
            assert ids == tokenizer.encode(normal)
            assert "<|endoftext|>" in text or len(ids) == len(normal.encode())
            assert tokenizer.decode(ids) == normal


class TestDemonstrations:
    def made(self, number: int = 2000, wrong: float = 0.35) -> list[tuple[str, str]]:
        draw = random.Random(3)
        return [demonstration(3 + index % 2, wrong, (-2, -1, 1, 2), draw) for index in range(number)]

    def test_as_many_steps_are_wrong_as_asked_for(self) -> None:
        steps = [tuple(map(int, step)) for _, completion in self.made() for step in STEP.findall(completion)]
        errors = [claim - (start + term) for start, term, claim in steps]
        assert sum(map(bool, errors)) / len(errors) == pytest.approx(0.35, abs=0.03)
        assert set(errors) == {-2, -1, 0, 1, 2}

    def test_every_one_is_well_formed_and_consistent_with_itself(self) -> None:
        """Each step starts from the claim before it, adds the next operand, and the box repeats the last claim."""
        for prompt, completion in self.made():
            operands = [int(term) for term in prompt[:-1].split("+")]
            steps = [tuple(map(int, step)) for step in STEP.findall(completion)]
            assert [term for _, term, _ in steps] == operands[1:]
            assert [start for start, _, _ in steps] == [operands[0], *(claim for _, _, claim in steps[:-1])]
            assert completion.endswith(f" \\boxed{{{steps[-1][2]}}}")

    def test_none_shows_what_a_run_may_hold_out(self) -> None:
        shown = {tuple(int(term) for term in prompt[:-1].split("+")) for prompt, _ in self.made()}
        assert not any(is_held_out(operands, RESERVED) for operands in shown)

    def test_completions_fit_forty_tokens(self) -> None:
        assert max(len(completion.encode()) for _, completion in self.made()) + 1 <= 40

    def test_noise_rises_to_its_full_share_and_stays(self) -> None:
        recipe = Recipe()
        shares = [recipe.wrong_at(step) for step in range(recipe.steps)]
        assert shares == sorted(shares)
        assert shares[0] == 0.0
        assert shares[recipe.ramp :] == [recipe.wrong] * (recipe.steps - recipe.ramp)


class TestWarmStart:
    def test_only_completion_tokens_are_learned(self) -> None:
        tokenizer = embedded_tokenizer()
        ids, labels = encoded([("1+2=", " 1+2=3"), ("1+2=", " 1")], tokenizer)
        assert ids.shape == (2, 11)
        assert tokenizer.decode(labels[0][labels[0] != IGNORED]) == " 1+2=3<|endoftext|>"
        assert tokenizer.decode(labels[1][labels[1] != IGNORED]) == " 1<|endoftext|>"

    def test_a_few_steps_teach_the_format(self) -> None:
        """On demonstrations of its own, the loss is far below that of a fresh model, and below that of guessing among digits."""
        recipe, tokenizer = Recipe(steps=60, batch_size=16, warmup=10), embedded_tokenizer()
        draw = random.Random(11)
        ids, labels = encoded([demonstration(3, 0.35, (-1, 1), draw) for _ in range(32)], tokenizer)
        with torch.no_grad():
            fresh = completion_loss(fresh_model(recipe, tokenizer), ids, labels)
            trained = completion_loss(warm_start(recipe, tokenizer), ids, labels)
        assert fresh > 5.0
        assert trained < 1.3

    def test_the_same_recipe_makes_the_same_model_and_another_seed_another(self) -> None:
        tokenizer = embedded_tokenizer()
        one, same, other = (warm_start(r, tokenizer).lm_head.weight for r in (BRIEF, BRIEF, replace(BRIEF, seed=1)))
        assert torch.equal(one, same)
        assert not torch.allclose(one, other)

    def test_global_state_is_left_as_it_was(self) -> None:
        torch.manual_seed(5)
        random.seed(5)
        before, drawn = torch.get_rng_state(), random.getstate()
        threads = torch.get_num_threads()
        torch.set_num_threads(7)
        torch.set_default_dtype(torch.float64)
        try:
            model = warm_start(BRIEF, embedded_tokenizer())
            assert model.dtype == torch.float32
            assert (torch.get_num_threads(), torch.get_default_dtype()) == (7, torch.float64)
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(torch.float32)
        assert torch.equal(torch.get_rng_state(), before)
        assert random.getstate() == drawn


class TestCache:
    def test_a_model_is_made_once(self, folder: Path) -> None:
        steps: list[tuple[int, int]] = []
        told: list[Event] = []
        assert embedded_model(folder.parent, recipe=BRIEF, progress=lambda *s: steps.append(s), tell=told.append) == folder
        assert (steps, told) == ([], [])

    def test_making_it_is_told_step_by_step(self, tmp_path: Path) -> None:
        steps: list[tuple[int, int]] = []
        told: list[Event] = []
        embedded_model(tmp_path, recipe=BRIEF, progress=lambda *s: steps.append(s), tell=told.append)
        assert steps == [(1, 3), (2, 3), (3, 3)]
        assert [type(event) for event in told] == [Notice, Notice]

    def test_the_folder_loads_with_transformers_alone(self, folder: Path) -> None:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert model.config.model_type == "qwen2"
        assert model.dtype == torch.float32
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
        made = warm_start(BRIEF, embedded_tokenizer())
        for name, weight in made.state_dict().items():
            assert torch.equal(model.state_dict()[name], weight), name

    @pytest.mark.parametrize("change", [{"wrong": 0.3}, {"seed": 1}, {"steps": 4}])
    def test_another_recipe_is_another_model(self, change: dict[str, float]) -> None:
        assert key_of(replace(BRIEF, **change)) != key_of(BRIEF)

    def test_another_version_of_transformers_is_another_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = key_of(BRIEF)
        monkeypatch.setattr(cache.transformers, "__version__", "5.0.0")
        assert key_of(BRIEF) != before

    def test_two_at_once_make_one_model(self, tmp_path: Path) -> None:
        made: list[Path] = []
        steps: list[int] = []

        def make() -> None:
            made.append(embedded_model(tmp_path, recipe=BRIEF, progress=lambda done, _: steps.append(done)))

        threads = [threading.Thread(target=make) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 3
        assert len(set(made)) == 1
        assert steps == [1, 2, 3]

    def test_an_interrupted_one_leaves_nothing_that_looks_whole(self, tmp_path: Path) -> None:
        def interrupt(done: int, steps: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            embedded_model(tmp_path, recipe=BRIEF, progress=interrupt)
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
        assert embedded_model(tmp_path, recipe=BRIEF).is_dir()

    def test_a_folder_that_lost_files_is_made_again(self, tmp_path: Path) -> None:
        path = embedded_model(tmp_path, recipe=BRIEF)
        (path / "model.safetensors").unlink()
        assert embedded_model(tmp_path, recipe=BRIEF) == path
        assert (path / "model.safetensors").is_file()

    def test_a_cache_that_cannot_be_written_is_an_error_with_a_way_out(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ModelError, match="RLVR_CACHE"):
            embedded_model(tmp_path / "file", recipe=BRIEF)

    def test_the_environment_says_where_models_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RLVR_CACHE", "/a")
        monkeypatch.setenv("XDG_CACHE_HOME", "/b")
        assert cache_root() == Path("/a")
        monkeypatch.delenv("RLVR_CACHE")
        assert cache_root() == Path("/b/rlvr")
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "/c")
        assert cache_root() == Path("/c/.cache/rlvr")


@pytest.mark.slow
def test_the_default_model_has_the_skill_and_the_noise() -> None:
    """On held-out problems: greedy answers are right, sampled ones often wrong, and wrong ones well-formed. What RL needs."""
    path = embedded_model()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    greedy, _ = accuracy(model, tokenizer, do_sample=False)
    torch.manual_seed(0)
    sampled, well_formed = accuracy(model, tokenizer, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    assert greedy >= 0.93
    assert 0.30 <= sampled <= 0.48
    assert well_formed >= 0.9


def accuracy(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, **how: object) -> tuple[float, float]:
    """Share of right answers, and of closed integer boxes among the wrong."""
    examples = sorted(task().evaluation(), key=lambda example: len(example.prompt))
    right, wrong = 0, []
    for _, group in itertools.groupby(examples, key=lambda example: len(example.prompt)):
        rows = list(group)
        prompts = tokenizer([example.prompt for example in rows], return_tensors="pt")
        output = model.generate(**prompts, max_new_tokens=48, **how)
        for example, ids in zip(rows, output[:, prompts["input_ids"].shape[1] :], strict=True):
            box = re.search(r"\\boxed\{(\d+)\}$", tokenizer.decode(ids, skip_special_tokens=True))
            if box and box[1] == example.gold:
                right += 1
            else:
                wrong.append(box is not None)
    return right / len(examples), sum(wrong) / max(1, len(wrong))
