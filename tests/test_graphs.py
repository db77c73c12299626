"""Decoding with CUDA graphs, on a GPU: `make test` on a machine that has one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_decode import REQUESTS, sampling
from tiny_models import ATTENTION, EXPERTS, Handle
from transformers import PreTrainedModel

from rlvr_core.components.options import TransformersEngineOptions
from rlvr_core.policy.handle import LocalPolicy
from rlvr_core.records import Completion, Request, RowKey
from rlvr_core.rollout.transformers_engine import TransformersEngine
from rlvr_core.testing import tiny_policy, tiny_tokenizer
from rlvr_core.testing.bench import Bench

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

WITHOUT_GRAPHS = {"bloom": "failed", "llama4 in chunks": "layers of another kind"}


def engine(model: PreTrainedModel, **options: object) -> TransformersEngine:
    started = TransformersEngine(TransformersEngineOptions.model_validate(options))
    started.start(Handle(model))
    return started


def forced(model: PreTrainedModel, request: Request, completion: Completion) -> torch.Tensor:
    """[T,V] log-probs of a forward over the whole row."""
    ids = torch.tensor([request.prompt_ids + completion.ids], device=model.device)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0].double()
    return torch.log_softmax(logits, -1)[len(request.prompt_ids) - 1 : -1].cpu()


@pytest.mark.parametrize("name", [*ATTENTION, *EXPERTS])
def test_logprobs_are_those_of_a_whole_forward_and_greedy_tokens_its_likeliest(name: str) -> None:
    model = {**ATTENTION, **EXPERTS}[name]().cuda()
    decoder = engine(model)
    if isinstance(decoder.paged, str):
        assert WITHOUT_GRAPHS.get(name, "nothing") in decoder.paged or name in EXPERTS, decoder.paged
        assert any("without CUDA graphs" in note for note in decoder.notes())
    for how in (sampling(1.0), sampling(0.0)):
        for request, completion in zip(REQUESTS, decoder.generate(REQUESTS, how), strict=True):
            whole = forced(model, request, completion)
            expected = whole.gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(completion.logprobs, dtype=torch.float64), expected, atol=1e-4, rtol=0)
            if how.temperature == 0:
                assert (whole.max(-1).values - expected).max() < 1e-4  # a difference is a near-tie


MANY = [
    Request(RowKey(1, p, s), tuple(3 + (p + i) % 20 for i in range(n)), 40 + 7 * s)
    for p, n in enumerate((5, 70))
    for s in range(9)
]


def test_rows_are_what_they_are_without_graphs() -> None:
    model = tiny_policy(dtype=torch.float32).cuda()
    with_graphs, without = (engine(model, graphs=g).generate(MANY, sampling(max_completion_length=110)) for g in (True, False))
    assert [(c.key, c.ids, c.finish_reason) for c in with_graphs] == [(c.key, c.ids, c.finish_reason) for c in without]


def test_rows_do_not_depend_on_what_shares_the_batch_or_the_pages() -> None:
    model, how = tiny_policy(dtype=torch.float32).cuda(), sampling(max_completion_length=110)
    free, narrow = (
        engine(model, graphs=True, **limits).generate(MANY, how) for limits in ({}, {"max_cache_tokens": 400, "max_rows": 5})
    )
    assert [c.ids for c in free] == [c.ids for c in narrow]
    assert free == engine(model, graphs=True).generate(MANY, how)  # and a run is repeated exactly


def test_graphs_follow_the_weights_and_the_way_of_drawing() -> None:
    bench = Bench.of({"name": "grpo"}, policy=tiny_policy(dtype=torch.float32))
    root = bench.learner.root.cuda()
    for autocast in (None, torch.bfloat16):
        root.numerics = replace(root.numerics, autocast=autocast)
        decoder = TransformersEngine(TransformersEngineOptions(graphs=True))
        decoder.start(LocalPolicy(bench.learner, tiny_tokenizer()))
        assert not isinstance(decoder.paged, str)
        first = decoder.generate(REQUESTS, sampling(0.0))
        graphs = len(decoder.paged.steps.replays)
        assert decoder.generate(REQUESTS, sampling(1.0)) != first
        assert decoder.generate(REQUESTS, sampling(0.0)) == first
        assert len(decoder.paged.steps.replays) > graphs
        with torch.no_grad():
            for parameter in root.policy.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        changed = decoder.generate(REQUESTS, sampling(0.0))
        assert changed != first
        fresh = TransformersEngine(TransformersEngineOptions(graphs=True))
        fresh.start(LocalPolicy(bench.learner, tiny_tokenizer()))
        assert [c.ids for c in fresh.generate(REQUESTS, sampling(0.0))] == [c.ids for c in changed]


@pytest.mark.parametrize("name", ["qwen2 with windows", "qwen3", "llama", "gemma2", "gpt2"])
def test_under_bfloat16_logprobs_are_near_those_of_the_learners_forward(name: str) -> None:
    bench = Bench.of({"name": "grpo"}, policy=ATTENTION[name]())
    root = bench.learner.root.cuda()
    root.numerics = replace(root.numerics, autocast=torch.bfloat16)
    policy = LocalPolicy(bench.learner, tiny_tokenizer())
    decoder = TransformersEngine(TransformersEngineOptions(graphs=True))
    decoder.start(policy)
    off = []
    for request, completion in zip(REQUESTS, decoder.generate(REQUESTS, sampling(1.0)), strict=True):
        ids = torch.tensor([request.prompt_ids + completion.ids]).cuda()
        whole = policy.decode(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)[len(request.prompt_ids) - 1 : -1]
        expected = whole.gather(-1, torch.tensor(completion.ids).cuda()[:, None])[:, 0].cpu()
        off.append((torch.tensor(completion.logprobs).double() - expected).abs())
    assert torch.cat(off).median() < 0.05
    assert not decoder.exact()
