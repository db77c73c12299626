"""Decoding with pages: attention, bookkeeping, and rows that are the same as without. Graphs themselves need a GPU (test_graphs.py)."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decode import PROMPTS, REQUESTS, TINY, alone, forced, generated, off, sampling
from tiny_models import ATTENTION, GPT2, Handle, made
from torch import Tensor
from transformers import AttentionInterface, GPT2Config, PreTrainedModel

from rlvr_core.components.options import TransformersEngineOptions
from rlvr_core.errors import ModelError
from rlvr_core.policy.handle import LocalPolicy
from rlvr_core.records import Completion, Request, RowKey, Sampling
from rlvr_core.rollout.cache import windows_of
from rlvr_core.rollout.decoding import Limits
from rlvr_core.rollout.paged.decoding import PagedDecoding
from rlvr_core.rollout.paged.pages import PAGE, TRASH, Pages
from rlvr_core.rollout.paged.steps import size_for
from rlvr_core.rollout.paged.weights import CastWeights
from rlvr_core.rollout.rows import rows_of
from rlvr_core.rollout.transformers_engine import TransformersEngine
from rlvr_core.testing import tiny_tokenizer
from rlvr_core.testing.bench import Bench

PAGED = {name: make for name, make in ATTENTION.items() if name not in ("bloom", "llama4 in chunks")}
"""Not those whose attention needs a mask of their own making."""


def paged(model: PreTrainedModel, tokens: int = 10**5, rows: int = 64, positions: int | None = None) -> PagedDecoding:
    windows = windows_of(model.config)
    assert not isinstance(windows, str)
    return PagedDecoding(Handle(model), windows, Limits(tokens, rows, 0.1, positions))


def written(decoding: PagedDecoding, requests: list[Request], how: Sampling) -> list[Completion]:
    rows = rows_of(requests, how, decoding.limits.positions)
    decoding.run(rows, how)
    assert decoding.pages.free == decoding.pages.number - 1  # every page is back, but the one that nobody owns
    return [row.completion() for row in rows]


@pytest.mark.parametrize("name", PAGED)
def test_greedy_ids_are_those_of_generate_row_by_row(name: str) -> None:
    model = PAGED[name]().double()
    found = written(paged(model, tokens=4 * PAGE, rows=4), REQUESTS, sampling(0.0))
    for request, completion in zip(REQUESTS, found, strict=True):
        assert list(completion.ids) == generated(model, request)
    assert off(model, found) < 1e-5


LONG = [
    Request(RowKey(1, p, s), tuple(3 + (p + i) % 30 for i in range(n)), 70) for p, n in enumerate((5, 60, 66)) for s in (0, 1)
]


@pytest.mark.parametrize("name", ["qwen2 with windows", "gemma2", "gpt2"])
def test_rows_that_fill_several_pages_have_the_logprobs_of_a_whole_forward(name: str) -> None:
    model = PAGED[name]()
    for request, completion in zip(LONG, written(paged(model), LONG, sampling(1.0, max_completion_length=70)), strict=True):
        whole = forced(model, request, completion).gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs, dtype=torch.float64), whole, atol=1e-4, rtol=0)


@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 18)), min_size=1, max_size=10),
    tokens=st.integers(1, 6 * PAGE),
    max_rows=st.integers(1, 12),
)
@settings(max_examples=20, deadline=None)
def test_whatever_shares_the_batch_a_row_stays_the_same(rows: list[tuple[int, int]], tokens: int, max_rows: int) -> None:
    requests = [Request(RowKey(1, p, s), PROMPTS[p], limit) for s, (p, limit) in enumerate(rows)]
    decoding = paged(TINY, tokens, max_rows)
    found = written(decoding, requests, sampling(0.8))
    assert [(c.key, c.ids, c.finish_reason) for c in found] == [(a.key, a.ids, a.finish_reason) for a in map(alone, requests)]
    assert all(number <= size_for(max_rows) or new > 1 for number, new in decoding.forward.policy.shapes)  # type: ignore[attr-defined]


def test_rows_put_back_for_want_of_pages_go_on_where_they_were() -> None:
    how = sampling(0.8, stop_token_ids=(), max_completion_length=3 * PAGE)
    requests = [Request(RowKey(1, 0, s), PROMPTS[0]) for s in range(4)]
    decoding = paged(TINY, tokens=6 * PAGE)
    narrow = written(decoding, requests, how)
    again = [new for _, new in decoding.forward.policy.shapes if new > PAGE]  # type: ignore[attr-defined]
    assert again  # a row that had written more than a page was prefilled
    assert [c.ids for c in narrow] == [c.ids for c in written(paged(TINY), requests, how)]


def test_rows_that_have_ended_stay_within_the_models_positions() -> None:
    model = made(GPT2Config, **GPT2, max_position_embeddings=16).double()
    requests = [Request(RowKey(1, 0, 0), (5,) * 10), *(Request(RowKey(1, p, 0), (5 + p,)) for p in (1, 2, 3))]
    long, *short = written(paged(model, positions=16), requests, sampling(0.0, stop_token_ids=()))
    assert (len(long.ids), long.finish_reason, [len(c.ids) for c in short]) == (
        6,
        "length",
        [15] * 3,
    )  # it goes on beside the others
    assert list(long.ids) == generated(model, requests[0], max_new_tokens=6, eos_token_id=None)


@pytest.mark.parametrize("length", [1, 31, 40])
def test_no_token_is_computed_twice_and_one_at_most_for_nothing(length: int) -> None:
    decoding = paged(TINY)
    how = sampling(stop_token_ids=(), max_completion_length=length)
    written(decoding, [Request(RowKey(1, 0, 0), (5,))], how)
    assert len(decoding.forward.policy.shapes) <= length + 2  # type: ignore[attr-defined]  # one to see what the cache is like


def test_prompts_that_begin_alike_share_no_pages_and_are_counted_so() -> None:
    begin = tuple(3 + i % 9 for i in range(2 * PAGE))
    requests = [Request(RowKey(1, p, 0), (*begin, 3 + p, 4), 3) for p in range(10)]
    found = written(paged(TINY, tokens=16 * PAGE), requests, sampling(0.8))
    assert [c.ids for c in found] == [c.ids for c in written(paged(TINY), requests, sampling(0.8))]


def test_buffers_that_are_replaced_are_gone() -> None:
    decoding = paged(TINY)
    few, many = ([Request(RowKey(1, 0, s), PROMPTS[0], 9) for s in range(n)] for n in (3, 40))
    written(decoding, few, sampling())
    pool = weakref.ref(decoding.steps.cache.keys[0])
    written(decoding, many, sampling())
    assert pool() is None


def test_buffers_are_kept_for_work_that_fits_them_and_made_anew_for_more() -> None:
    decoding = paged(TINY)
    few, many = ([Request(RowKey(1, 0, s), PROMPTS[0], 9) for s in range(n)] for n in (3, 40))
    written(decoding, few, sampling())
    steps = decoding.steps
    again = written(decoding, few, sampling())
    assert decoding.steps is steps
    assert [c.ids for c in written(decoding, many, sampling())[:3]] == [c.ids for c in again]
    assert decoding.steps is not steps


def test_what_goes_wrong_in_one_call_leaves_nothing_to_the_next() -> None:
    decoding = paged(TINY)
    requests = [Request(RowKey(1, 0, 0), (5,), 9)]  # without a prefill: it fails where the row has its pages
    expected = written(decoding, requests, sampling())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding.forward.policy, "decode", {}.__getitem__)
        with pytest.raises(TypeError):
            written(decoding, requests, sampling())
    assert not decoding.seats and decoding.pages.free == decoding.pages.number - 1
    assert written(decoding, requests, sampling()) == expected


def test_graphs_that_were_asked_for_where_there_can_be_none_are_an_error() -> None:
    engine = TransformersEngine(TransformersEngineOptions(graphs=True))
    model = TINY
    if torch.cuda.is_available():
        model = ATTENTION["llama"]().double().cuda()
    with pytest.raises(ModelError, match=r"rollout.engine.graphs: not with this model here: .*; leave it out"):
        engine.start(Handle(model))


@given(data=st.data())
def test_a_page_is_free_again_once_its_last_owner_gave_it_back(data: st.DataObject) -> None:
    pages, held = Pages(9), list[list[int]]()
    for _ in range(data.draw(st.integers(0, 30))):
        if held and data.draw(st.booleans()):
            some = held.pop(data.draw(st.integers(0, len(held) - 1)))
            (pages.give_back if data.draw(st.booleans()) else lambda p: held.extend([pages.share(p), p]))(some)
        elif pages.free:
            held.append(pages.take(data.draw(st.integers(1, pages.free))))
        owned = {page for some in held for page in some}
        assert TRASH not in owned
        assert pages.free == 8 - len(owned)
        assert all(len(set(some)) == len(some) for some in held)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_layers_compute_with_the_copies_and_the_parameters_stay(dtype: torch.dtype) -> None:
    model = ATTENTION["gpt2"]().to(dtype)
    weights, names = CastWeights(model, torch.bfloat16), [name for name, _ in model.named_parameters()]

    def logits() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return model(input_ids=torch.tensor([[3, 4, 5]])).logits  # type: ignore[no-any-return]

    before = logits()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    after = logits()
    with weights.worn():
        assert torch.equal(logits(), after) == (dtype == torch.float64)  # the copies are of before; autocast leaves float64 alone
        weights.refresh()
        assert torch.equal(logits(), after)
        assert [name for name, _ in model.named_parameters()] == names
    assert not torch.equal(before, after)
    assert all(p.dtype == dtype for p in model.parameters())


def test_under_autocast_no_step_casts_a_weight() -> None:
    from test_decode import _Casts

    bench = Bench.of({"name": "grpo"}, dtype=torch.float32)
    root = bench.learner.root
    root.numerics = replace(root.numerics, autocast=torch.bfloat16)
    policy = LocalPolicy(bench.learner, tiny_tokenizer())
    windows = windows_of(root.policy.config)
    assert not isinstance(windows, str)
    decoding = PagedDecoding(policy, windows, Limits(10**4, 8, 0.1))
    assert decoding.autocast == torch.bfloat16
    rows = rows_of([Request(RowKey(1, 0, 0), (5, 6), 12)], sampling(stop_token_ids=()), None)
    with _Casts() as casts:
        decoding.run(rows, sampling(stop_token_ids=()))
    assert casts.matrices == 0
    assert decoding.steps.cache.keys[0].dtype == torch.bfloat16
    engine = TransformersEngine(TransformersEngineOptions())
    engine.start(policy)
    (eager,) = engine.generate([Request(RowKey(1, 0, 0), (5, 6), 12)], sampling(stop_token_ids=()))
    torch.testing.assert_close(torch.tensor(rows[0].logprobs), torch.tensor(eager.logprobs), atol=0.05, rtol=0)


def test_attention_with_more_to_it_is_refused_and_the_models_own_is_put_back() -> None:
    decoding = paged(TINY)
    written(decoding, [Request(RowKey(1, 0, 0), PROMPTS[0], 2)], sampling())
    with decoding.steps.cache.attended(TINY):
        attention = AttentionInterface()["rlvr_pages"]
        with pytest.raises(NotImplementedError, match="s_aux"):
            attention(None, None, None, None, None, s_aux=torch.zeros(1))
    assert TINY.config._attn_implementation != "rlvr_pages"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_compiled_layers_draw_the_same_and_one_serves_for_all() -> None:
    dynamo, model = torch._dynamo, ATTENTION["qwen3"]()
    windows = windows_of(model.config)
    assert not isinstance(windows, str)
    how = sampling(max_completion_length=12)
    requests = [Request(RowKey(1, p, s), PROMPTS[p], 3 + s) for p in range(6) for s in range(5)]
    plain = written(paged(model), requests, how)
    dynamo.utils.counters.clear()
    compiled = written(PagedDecoding(Handle(model), windows, Limits(10**5, 64, 0.1), compiled=True), requests, how)
    assert [c.ids for c in compiled] == [c.ids for c in plain]
    assert dynamo.utils.counters["stats"]["unique_graphs"] <= 4 < 2 * model.config.num_hidden_layers  # layers and sampler
    assert not dynamo.utils.counters["graph_break"]
    assert not any("forward" in vars(module) for module in model.modules())
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2]
