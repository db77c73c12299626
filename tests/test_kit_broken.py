"""Deliberately broken components: each is seen by the check that is there for its mistake, and told the likely cause."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pytest
import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from rlvr_core.components.options import CorrectionOptions, NoOptions
from rlvr_core.components.options import TransformersEngineOptions as EngineOptions
from rlvr_core.components.parts import AllSampler, Entropy, KlReward, TruncatedCorrection
from rlvr_core.contracts import CreditAssigner, Loss, Needs, Observer, Regulariser, Reward, Sampler, Shaper, Task
from rlvr_core.events import Event, StepFinished
from rlvr_core.learner.references import EmaTwin, FrozenReference
from rlvr_core.options import Options, option
from rlvr_core.plugins import catalogue
from rlvr_core.records import Batch, Completion, Credit, Example, MicroBatch, Outcome, RewardItem, Rollout, Selection, Term
from rlvr_core.rollout.transformers_engine import TransformersEngine
from rlvr_core.testing import ConformanceError, check_loss, findings, given, with_components
from rlvr_core.testing.host import CentredCredit, PlainLoss, Subject, subject_of
from rlvr_core.testing.kit import CHECKS, Check, run_check

BROKEN: list[tuple[str, type[Any], type[Options], str, str]] = []
"""(kind, class, options, title of the check that must see it, words of its message)."""


def broken(kind: str, check: str, words: str, options: type[Options] = NoOptions) -> Callable[[type[Any]], type[Any]]:
    """Add a class to the table."""

    def add(cls: type[Any]) -> type[Any]:
        if check != "it is documented" or options is not NoOptions:
            cls.__doc__ = "A broken component."
        BROKEN.append((kind, cls, options, check, words))
        return cls

    return add


class Coef(Options):
    """The least a regulariser has."""

    coef: float = option(0.1, "coefficient", ge=0.0)


# Options


@broken("loss", "it is documented", "no docstring")
class Undocumented(PlainLoss):
    pass


class Undescribed(Options):
    """An option without a word."""

    power: float = 1.0


@broken("loss", "it is documented", "'power'", Undescribed)
class Silent(PlainLoss):
    pass


class Loose(Options):
    """Takes anything."""

    model_config = ConfigDict(extra="allow")


@broken("loss", "its options are strict", "extra='forbid'", Loose)
class TakesAnything(PlainLoss):
    pass


class Lenient(Options):
    """Turns text into numbers."""

    model_config = ConfigDict(strict=False)
    power: float = option(1.0, "a power")


@broken("loss", "its options are strict", "strict=True", Lenient)
class TakesText(PlainLoss):
    pass


class Thawed(Options):
    """May change."""

    model_config = ConfigDict(frozen=False)
    power: float = option(1.0, "a power")


@broken("loss", "its options are strict", "frozen=True", Thawed)
class Changeable(PlainLoss):
    pass


class Inert(Options):
    """Names an option that is none."""

    def inert(self) -> Mapping[str, str]:
        return {"powr": "a slip"}


@broken("loss", "its options name what has no effect", "'powr'", Inert)
class NamesNone(PlainLoss):
    pass


class HereWithTorch(Options):
    """This module imports torch."""


@broken("loss", "its options load without torch", "imports torch", HereWithTorch)
class Heavy(PlainLoss):
    pass


@broken("sampler", "its state is its own", "mutable default")
class SharesState(AllSampler):
    seen: ClassVar[dict[str, Any]] = {}

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.seen[f"instance {len(self.seen)}"] = 1

    def state_dict(self) -> dict[str, Any]:
        return dict(self.seen)


# Steps


@broken("loss", "the split of the work changes nothing", "mean or a count over the micro-batch")
class MeanOfMeans(Loss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        values = (batch.advantage * batch["logprobs"] * batch.weight * batch.importance).where(batch.mask, 0.0)
        return {"policy": Term(-values / batch.mask.sum() * len(values))}


@broken("regulariser", "the split of the work changes nothing", "padding", Coef)
class PoolsPadding(Regulariser):
    def needs(self) -> Needs:
        return Needs(policy=frozenset({"hidden"}))

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"pooled": Term(batch["hidden"].mean((1, 2)).square(), over="sequences", coef=self.options.coef)}


@broken("credit", "the split of the work changes nothing", "off by")
class ByPlace(CreditAssigner):
    def credit(self, batch: Batch) -> Credit:
        return Credit(batch.rewards * torch.arange(1.0, len(batch.rewards) + 1, dtype=torch.float64))


@broken("loss", "it draws nothing from global generators", "batch.normal")
class GlobalNoise(PlainLoss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        (term,) = super().terms(batch).values()
        return {"policy": replace(term, values=term.values * torch.rand(()))}


@broken("loss", "it draws nothing from global generators", "seeds, a global")
class SeedsItself(PlainLoss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        torch.manual_seed(0)
        return super().terms(batch)


class Unread(Options):
    """One option is looked at, one is not."""

    used: float = option(1.0, "a factor")
    unused: float = option(1.0, "nothing")


@broken("loss", "every option is read", "'unused' is never read", Unread)
class ReadsOne(PlainLoss):
    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.used = options.used


@broken("loss", "it survives what may happen", "clamp log-ratios")
class Explodes(Loss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        ratio = (batch["logprobs"] - batch.old_logprobs).exp()
        return {"policy": Term(-ratio * batch.advantage * batch.weight * batch.importance)}


@broken("credit", "it survives what may happen", "spread that may be 0")
class DividesByZero(CreditAssigner):
    def credit(self, batch: Batch) -> Credit:
        advantage = torch.zeros_like(batch.rewards)
        for group in batch.groups:
            advantage[group.rows] = (batch.rewards[group.rows] - group.rewards.mean()) / group.rewards.std()
        return Credit(advantage)


class Anneals(PlainLoss):
    """Forgets its count of steps."""

    calls = 0

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        self.calls += 1
        (term,) = super().terms(batch).values()
        return {"policy": replace(term, values=term.values / self.calls)}


broken("loss", "it resumes exactly", "state_dict()")(Anneals)


@broken("sampler", "it resumes exactly", "keeps other rollouts")
class ForgetsItsStep(Sampler):
    step = 0

    def select(self, scored: Sequence[Rollout], round: int) -> Selection:
        self.step += 1
        return Selection([r for r in scored if r.key.sample < self.step])


@broken("sampler", "it resumes exactly", "does not come back from a checkpoint")
class StateOfObjects(AllSampler):
    def state_dict(self) -> dict[str, Any]:
        return {"random": random.Random(0)}


@broken("shaper", "it resumes exactly", "state_dict()")
class RunningMean(Shaper):
    mean = 0.0

    def shape(self, batch: Batch) -> Tensor:
        found = torch.arange(float(len(batch.rewards)), dtype=torch.float64).flip(0) * self.mean
        self.mean += float(batch.rewards.mean()) / 10
        return found


# Terms


@broken("regulariser", "it reads what it declares", "never reads", Coef)
class DeclaresTooMuch(Regulariser):
    def needs(self) -> Needs:
        return Needs(policy=frozenset({"entropy", "hidden"}))

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"entropy": Term(-batch["entropy"], coef=self.options.coef)}


@broken("regulariser", "it reads what it declares", "without declaring it", Coef)
class DeclaresTooLittle(Regulariser):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"entropy": Term(-batch["entropy"], coef=self.options.coef)}


@broken("loss", "its terms keep names and shapes", "some micro-batches only")
class LogsSometimes(PlainLoss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        if (batch.advantage > 0).any():
            batch.log("mine/positive", batch.advantage)
        return super().terms(batch)


@broken("loss", "its terms keep names and shapes", "[B] or [B,T]")
class Averages(PlainLoss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        (term,) = super().terms(batch).values()
        return {"policy": replace(term, values=term.values.mean())}


@broken("loss", "it changes nothing that it is handed", "advantage")
class ScalesInPlace(PlainLoss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        batch.advantage *= 2
        return super().terms(batch)


@broken("loss", "it keeps the dtype", "drop .float()")
class Narrow(PlainLoss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        (term,) = super().terms(batch).values()
        return {"policy": replace(term, values=term.values.float())}


@broken("regulariser", "its gradient reaches what it should", "detached", Coef)
class Detached(Regulariser):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"mine": Term(batch["logprobs"].detach() + 0 * batch["logprobs"], coef=self.options.coef)}


class KeepsAModule(Regulariser):
    """Uses a module that it did not hand over."""

    returned = False

    def needs(self) -> Needs:
        return Needs(policy=frozenset({"hidden"}))

    def build(self, policy: Any, dims: Any) -> nn.Module | None:
        self.first, self.second = nn.Linear(dims.hidden_size, 1).to(policy.dtype), nn.Linear(dims.hidden_size, 1)
        return nn.ModuleList([self.first, self.second]) if self.returned else None

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"mine": Term(self.first(batch["hidden"]).squeeze(-1).square(), coef=self.options.coef)}


broken("regulariser", "its gradient reaches what it should", "not returned by build()", Coef)(KeepsAModule)


@broken("regulariser", "its gradient reaches what it should", "never gets a gradient", Coef)
class BuildsTooMuch(KeepsAModule):
    returned = True


@broken("loss", "credit decides", "batch.advantage")
class IgnoresAdvantage(PlainLoss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"policy": Term(-batch["logprobs"] * batch.weight * batch.importance)}


@broken("loss", "credit decides", "batch.weight")
class IgnoresWeight(PlainLoss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"policy": Term(-batch.advantage * batch["logprobs"] * batch.importance)}


@broken("loss", "credit decides", "batch.importance")
class IgnoresCorrection(PlainLoss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"policy": Term(-batch.advantage * batch["logprobs"] * batch.weight)}


@broken("loss", "credit decides", "check its sign")
class WrongSign(PlainLoss):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        (term,) = super().terms(batch).values()
        return {"policy": replace(term, values=-term.values)}


class EntropyOptions(Coef):
    """As the entropy bonus has them."""

    scope: Literal["chosen", "all"] = option("chosen", "whose tokens")


@broken("regulariser", "its coefficient scales it once", "not in the values too", EntropyOptions)
class CoefTwice(Entropy):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {name: replace(term, values=term.values * self.options.coef) for name, term in super().terms(batch).items()}


@broken("regulariser", "its coefficient scales it once", "no 'coef'")
class NoCoef(Regulariser):
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"mine": Term(batch["logprobs"].square())}


@broken("regulariser", "what it provides is there", "read none", Coef)
class ProvidesUntrained(Regulariser):
    provides = frozenset({"scores"})

    def needs(self) -> Needs:
        return Needs(policy=frozenset({"states", "logprobs"}))

    def build(self, policy: Any, dims: Any) -> nn.Module:
        self.head = nn.Linear(dims.hidden_size, 1)
        return self.head

    def provide(self, name: str, batch: MicroBatch) -> Tensor:
        found: Tensor = self.head(batch["states"]).squeeze(-1)
        return found

    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        return {"mine": Term(batch["logprobs"].square(), coef=self.options.coef)}


# Samplers, corrections, shapers, credits, references


@broken("sampler", "it selects whole rollouts once", "twice")
class KeepsTwice(Sampler):
    def select(self, scored: Sequence[Rollout], round: int) -> Selection:
        return Selection([*scored, *scored])


@broken("sampler", "it selects whole rollouts once", "changes the list")
class PopsThem(Sampler):
    def select(self, scored: Sequence[Rollout], round: int) -> Selection:
        return Selection([scored.pop()])  # type: ignore[attr-defined]


@broken("sampler", "it selects whole rollouts once", "nobody drew")
class RewritesRewards(Sampler):
    def select(self, scored: Sequence[Rollout], round: int) -> Selection:
        return Selection([replace(r, reward=r.reward + 2) for r in scored])


@broken("sampler", "every rank selects alike", "two ranks")
class TossesCoins(Sampler):
    def select(self, scored: Sequence[Rollout], round: int) -> Selection:
        return Selection([r for r in scored if random.random() < 0.5])


@broken("correction", "its factors are sound", "not finite", CorrectionOptions)
class Unbounded(TruncatedCorrection):
    def importance(self, logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor) -> Tensor:
        return (logprobs - sampling_logprobs).exp()


@broken("correction", "its factors are sound", "is not 1", CorrectionOptions)
class Damps(TruncatedCorrection):
    def importance(self, logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor) -> Tensor:
        return 0.9 * super().importance(logprobs, sampling_logprobs, mask)


@broken("correction", "it looks at no padding", "mask log-ratios", CorrectionOptions)
class SumsPadding(TruncatedCorrection):
    def importance(self, logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor) -> Tensor:
        return (logprobs - sampling_logprobs).sum(-1, keepdim=True).clamp(-5, 1).exp().expand(mask.shape)


@broken("credit", "it gives what it should", "has shape")
class OneForEachGroup(CreditAssigner):
    def credit(self, batch: Batch) -> Credit:
        return Credit(torch.zeros(len(batch.groups) + 1, dtype=torch.float64))


@broken("credit", "it gives what it should", "negative weights")
class NegativeWeights(CentredCredit):
    def credit(self, batch: Batch) -> Credit:
        found = super().credit(batch)
        return replace(found, weight=found.advantage)


@broken("credit", "it gives what it should", "float64")
class NarrowCredit(CentredCredit):
    def credit(self, batch: Batch) -> Credit:
        return Credit(super().credit(batch).advantage.float())


@broken("credit", "it changes nothing in the batch", "rewards")
class CentresInPlace(CreditAssigner):
    def credit(self, batch: Batch) -> Credit:
        for group in batch.groups:
            batch.rewards[group.rows] -= group.rewards.mean()
        return Credit(batch.rewards.clone())


@broken("credit", "order and padding change nothing", "batch.groups")
class PrefersTheFirst(CentredCredit):
    def credit(self, batch: Batch) -> Credit:
        advantage = super().credit(batch).advantage.clone()
        advantage[0] += 1
        return Credit(advantage)


@broken("credit", "rows that were not chosen do not count", "dropped rows")
class BatchBaseline(CreditAssigner):
    def credit(self, batch: Batch) -> Credit:
        return Credit(batch.rewards - batch.rewards.mean())


class KlOptions(Coef):
    """As kl_reward has them."""

    to: str = option("frozen", "reference")
    estimator: Literal["k1"] = option("k1", "estimator")
    clamp: float | None = option(None, "bound")


@broken("shaper", "order and padding change nothing", "other groups' rows", KlOptions)
class SharesKl(KlReward):
    def shape(self, batch: Batch) -> Tensor:
        return super().shape(batch).where(batch.mask, 0.0).mean().expand(batch.mask.shape)


@broken("shaper", "it gives what it should", "carries a gradient")
class LearnedShaper(Shaper):
    def shape(self, batch: Batch) -> Tensor:
        return batch.rewards * torch.ones((), dtype=torch.float64, requires_grad=True)


class DecayOptions(Options):
    """As the twin has them."""

    decay: float = option(0.995, "weight of the old")


@broken("reference", "it is a policy of its own", "shares parameters")
class ThePolicyItself(FrozenReference):
    def build(self, policy: Any) -> Any:
        self.model = copy.copy(policy).eval().requires_grad_(False)
        return self.model


@broken("reference", "it is a policy of its own", "take gradients")
class Trainable(FrozenReference):
    def build(self, policy: Any) -> Any:
        self.model = copy.deepcopy(policy)
        return self.model


@broken("reference", "it says whether it moves", "moves = True", DecayOptions)
class MovesInSecret(EmaTwin):
    moves = False


@broken("reference", "it moves alike in every dtype", "float32 at least", DecayOptions)
class TwinInBfloat16(EmaTwin):
    def build(self, policy: Any) -> Any:
        return self.copied(policy)


@broken("reference", "its weights come back", "after a restart", DecayOptions)
class ForgetsItsWeights(EmaTwin):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


# Tasks, engines, rewards, observers


class Sums(Task):
    """Right, but for what its heirs break."""

    def train(self) -> Sequence[Example]:
        return [Example(f"t{n}", f"{n} + 1", str(n + 1)) for n in range(8)]

    def evaluation(self) -> Sequence[Example]:
        return [Example(f"e{n}", f"{n} + 1", str(n + 1)) for n in range(100, 104)]


@broken("task", "its problems are whole", "ids come twice")
class SameIds(Sums):
    def train(self) -> Sequence[Example]:
        return [replace(row, id="x") for row in super().train()]


@broken("task", "its problems are whole", "pickling")
class Unpicklable(Sums):
    def train(self) -> Sequence[Example]:
        return [replace(row, columns={"f": lambda: 0}) for row in super().train()]


@broken("task", "it is the same on every call and rank", "differ from call to call")
class Shuffles(Sums):
    def train(self) -> Sequence[Example]:
        return random.sample(super().train(), 8)


@broken("task", "nothing held out is trained on", "training problems too")
class Leaks(Sums):
    def evaluation(self) -> Sequence[Example]:
        return [replace(row, id=f"e{row.id}") for row in self.train()]


def changed(change: Callable[[list[Completion]], list[Completion]]) -> Callable[..., list[Completion]]:
    """generate() of core's engine, its answers changed."""

    def generate(self: Any, requests: Any, sampling: Any) -> list[Completion]:
        return change(TransformersEngine.generate(self, requests, sampling))

    return generate


@broken("rollout", "it answers each request in order", "order of the requests", EngineOptions)
class Backwards(TransformersEngine):
    generate = changed(lambda found: found[::-1])


@broken("rollout", "it answers each request in order", "one a token", EngineOptions)
class NoEndLogprob(TransformersEngine):
    generate = changed(lambda found: [replace(c, logprobs=c.logprobs[:-1]) for c in found])


@broken("rollout", "it answers each request in order", "finish reason", EngineOptions)
class AlwaysStop(TransformersEngine):
    generate = changed(lambda found: [replace(c, finish_reason="stop") for c in found])


@broken("rollout", "a rows text is its own", "stream_seeds", EngineOptions)
class ByPlaceInBatch(TransformersEngine):
    def generate(self, requests: Any, sampling: Any) -> list[Completion]:
        moved = [replace(r, key=r.key._replace(prompt=i)) for i, r in enumerate(requests)]
        return [replace(c, key=r.key) for c, r in zip(super().generate(moved, sampling), requests, strict=True)]


@broken("rollout", "exact means exact", "False from exact()", EngineOptions)
class ClaimsExact(TransformersEngine):
    generate = changed(lambda found: [replace(c, logprobs=tuple(x - 0.01 for x in c.logprobs)) for c in found])


@broken("rollout", "exact means exact", "temperature 0.6", EngineOptions)
class LogprobsAtTemperatureOne(TransformersEngine):
    def generate(self, requests: Any, sampling: Any) -> list[Completion]:
        heat = sampling.temperature
        return [replace(c, logprobs=tuple(x * heat for x in c.logprobs)) for c in super().generate(requests, sampling)]


@broken("rollout", "a stop string ends a completion", "says it ended by", EngineOptions)
class IgnoresStopStrings(TransformersEngine):
    def generate(self, requests: Any, sampling: Any) -> list[Completion]:
        return super().generate(requests, replace(sampling, stop_strings=()))


@broken("rollout", "temperature zero is greedy", "differ", EngineOptions)
class NeverGreedy(TransformersEngine):
    def generate(self, requests: Any, sampling: Any) -> list[Completion]:
        return super().generate(requests, replace(sampling, temperature=sampling.temperature or 1.0))


class Contains(Reward):
    """Right, but for what its heirs break."""

    def score(self, items: Sequence[RewardItem]) -> Sequence[Outcome]:
        return [Outcome(float(item.gold in item.completion)) for item in items]


@broken("reward", "no completion breaks it", "raised IndexError")
class TakesAWord(Contains):
    def score(self, items: Sequence[RewardItem]) -> Sequence[Outcome]:
        return [Outcome(float(item.completion.split()[-1] == item.gold)) for item in items]


@broken("reward", "no completion breaks it", "an Outcome each")
class GivesNumbers(Contains):
    def score(self, items: Sequence[RewardItem]) -> Any:
        return [float(item.gold in item.completion) for item in items]


@broken("reward", "no completion breaks it", "one each")
class SkipsEmpty(Contains):
    def score(self, items: Sequence[RewardItem]) -> Sequence[Outcome]:
        return super().score([item for item in items if item.completion])


@broken("reward", "an item is scored on its own", "scored alone")
class Ranks(Contains):
    def score(self, items: Sequence[RewardItem]) -> Sequence[Outcome]:
        longest = max((len(item.completion) for item in items), default=0)
        return [Outcome(float(len(item.completion) == longest)) for item in items]


@broken("reward", "its own statement of a gold is right", "and not 1")
class MisstatesGolds(Contains):
    def as_completion(self, gold: str) -> str:
        return "nothing"


@broken("observer", "it hears a run from end to end", "let pass")
class KnowsSteps(Observer):
    def observe(self, event: Event) -> None:
        event.step  # type: ignore[attr-defined]  # noqa: B018 - raises for events without


@broken("observer", "it may be closed before the run starts", "raised AttributeError")
class ClosesAFile(Observer):
    def close(self) -> None:
        self.file.close()  # type: ignore[attr-defined]


@broken("observer", "it changes nothing that it is told", "StepFinished")
class AddsAMetric(Observer):
    def observe(self, event: Event) -> None:
        if isinstance(event, StepFinished):
            event.metrics["mine"] = 1  # type: ignore[index]


@broken("observer", "its state comes back", "does not come back")
class StateWithoutLoading(Observer):
    def state_dict(self) -> dict[str, Any]:
        return {"seen": 1}


NOT_BROKEN_BY_A_CLASS = {
    "several passes do not depend on the split": "the checks of its parts see the same mistakes first",
    "a step without signal is seen as one": "likewise",
}
"""Checks of objectives, which are data: broken below through their parts."""


def subject(kind: str, cls: type[Any], options: type[Options]) -> Subject:
    """The class as an installed component."""
    return subject_of(kind, "broken", None, with_components(catalogue(), given(kind, "broken", cls, options)))


@pytest.mark.parametrize(
    ("kind", "cls", "options", "check", "words"), BROKEN, ids=lambda x: x.__name__ if isinstance(x, type) else ""
)
def test_a_mistake_is_seen_by_its_check(kind: str, cls: type[Any], options: type[Options], check: str, words: str) -> None:
    (function,) = (c for c in CHECKS[kind] if title(c) == check)
    found = run_check(function, subject(kind, cls, options))
    assert found.outcome == "failed" and words in found.message, found
    assert "\n" not in found.message


def title(check: Check) -> str:
    """A check's name in words."""
    return check.__name__.replace("_", " ")


def test_every_check_has_a_component_that_breaks_it() -> None:
    there = {title(check) for checks in CHECKS.values() for check in checks}
    assert there - {check for *_, check, _ in BROKEN} == NOT_BROKEN_BY_A_CLASS.keys()


@pytest.mark.parametrize(("kind", "cls"), [("loss", PlainLoss), ("credit", CentredCredit), ("task", Sums), ("reward", Contains)])
def test_what_the_broken_ones_derive_from_passes(kind: str, cls: type[Any]) -> None:
    """So it is the planted mistake that is seen."""
    installed = with_components(catalogue(), given(kind, "right", cls))
    assert [f for f in findings(kind, "right", installed=installed) if f.outcome == "failed"] == []


def test_a_check_function_raises_one_line_for_each_failure() -> None:
    installed = with_components(catalogue(), given("loss", "broken", WrongSign))
    with pytest.raises(ConformanceError, match=r"loss broken: credit decides: .*check its sign") as caught:
        check_loss("broken", installed=installed)
    assert isinstance(caught.value, AssertionError)
    assert len(str(caught.value).splitlines()) == 1
