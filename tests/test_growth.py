"""Nothing grows faster than the work it does: seen from the tensors that are made, without timing."""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlvr_core.learner.learner import Learner, Tally, When
from rlvr_core.policy.scores import Linear, score_tokens
from rlvr_core.records import Rollout
from rlvr_core.reward.outcomes import with_group_rewards
from rlvr_core.testing import scripted_rollouts
from rlvr_core.testing.bench import Bench


class Made(TorchDispatchMode):
    """Shapes of all tensors that operations make (views and what is written in place aside), and the most bytes alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.peak = 0
        self._alive: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.shapes.append(tuple(tensor.shape))
                self._alive.append(weakref.ref(tensor))
        self._alive = [reference for reference in self._alive if reference() is not None]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for r in self._alive if (t := r()) is not None}
        self.peak = max(self.peak, sum(storages.values()))
        return found


ROWS, WIDTH = 13, 7  # no matrix of the tiny policy is of this shape


def whole_batch_tensors(rollouts: list[Rollout], objective: str, budget: int) -> tuple[int, int]:
    """(tensors of the whole batch's shape that one update makes, its forwards)."""
    bench = Bench.of({"name": objective}, max_tokens_per_microbatch=budget)
    with Made() as made:
        batch, credit = bench.prepare(rollouts)
        bench.learner.update(batch, credit, len(rollouts), When(0, 1))
    return made.shapes.count((ROWS, WIDTH)), bench.learner.forwards + bench.preparer.forwards


@pytest.mark.parametrize("objective", ["popo", "grpo", "ppo"])
def test_the_number_of_micro_batches_does_not_multiply_the_whole_batch(objective: str) -> None:
    rewards = [float(sample % 4 > 0) for sample in range(ROWS + 4)]
    rewards = [1.0] * ROWS if objective == "popo" else rewards[:ROWS]
    rollouts = scripted_rollouts([rewards], [[WIDTH] * ROWS], exact=False)
    few, many = (whole_batch_tensors(rollouts, objective, budget) for budget in (5 * (WIDTH + 2), 1))
    assert many[1] > few[1]
    assert many[0] == few[0]


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_the_memory_of_scores_does_not_grow_with_tokens_times_vocabulary(entropy: bool, softcap: float | None) -> None:
    chunk, vocabulary = 8, 4096
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, 2, generator=draw).requires_grad_()

    def peak(tokens: int) -> int:
        hidden = torch.randn(tokens, 2, generator=draw).requires_grad_()
        with Made() as made:
            scores = score_tokens(hidden, torch.arange(tokens), Linear(weight, None, 1.0, softcap), 0.7, chunk, entropy)
            (scores.logprobs.sum() + scores.entropy.sum()).backward()
        return made.peak

    assert peak(16 * chunk) - peak(chunk) < chunk * vocabulary * 4 / 8


def test_members_of_a_group_share_its_rewards() -> None:
    rollouts = with_group_rewards(scripted_rollouts([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], [[2, 2, 2]] * 2))
    assert len({id(r.group_rewards) for r in rollouts}) == 2


def peaks_of(work: Callable[[], object]) -> int:
    """The most bytes alive at once."""
    with Made() as made:
        work()
    return made.peak


def test_the_tally_sees_what_is_alive_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(4):
            x = torch.zeros(1000)
            del x

    def beside_each_other() -> list[Tensor]:
        return [torch.zeros(1000) for _ in range(4)]

    assert peaks_of(one_after_the_other) == 4000
    assert peaks_of(beside_each_other) == 16000


class Fetched(TorchDispatchMode):
    """Counts what makes the host wait for an accelerator: numbers read, and shapes that depend on them. The model's own code is its own
    affair."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        by_mask = function is aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        if by_mask or function in (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default):
            self.number += not any("/transformers/" in frame.filename for frame in traceback.extract_stack())
        return function(*args, **(kwargs or {}))


def fetched_by_micro_batches(objective: str, packed: bool) -> int:
    """What one update reads between its first micro-batch and its optimizer step."""
    bench, fetched, right = (
        Bench.of({"name": objective}, max_tokens_per_microbatch=12, packing=packed),
        Fetched(),
        Learner._accumulate,
    )

    def watched(*arguments: Any) -> None:
        with fetched:
            right(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "_accumulate", watched)
        bench.gradients(scripted_rollouts([[1.0, 0.0, 1.0, 1.0]], [[3, 5, 2, 8]]))
    return fetched.number


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("objective", ["popo", "grpo", "ppo"])
def test_micro_batches_fetch_nothing_from_the_device(objective: str, packed: bool) -> None:
    assert fetched_by_micro_batches(objective, packed) == 0


def test_a_number_fetched_for_every_term_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Tally.add
    monkeypatch.setattr(Tally, "add", lambda self, name, value: right(self, name, torch.tensor(float(value.detach()))))
    assert fetched_by_micro_batches("popo", packed=False) > 0
