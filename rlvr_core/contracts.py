"""What each kind of component must do.

A component is a class built with its validated options: ``Class(options)``. It keeps what it must remember across steps in
``state_dict``, which goes into checkpoints. The engine owns randomness, padding, gathering, masking and division; a component
that stays with the tensors it is handed cannot get those wrong. Axis letters: see ``rlvr_core.records``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rlvr_core.records import Scope

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlvr_core.events import Event
    from rlvr_core.records import (
        Batch,
        Completion,
        Credit,
        Credited,
        Example,
        MicroBatch,
        Outcome,
        Request,
        RewardItem,
        Rollout,
        Sampling,
        Selection,
        Term,
    )


class Component:
    """What all kinds share: options, and state that a checkpoint keeps."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def state_dict(self) -> dict[str, Any]:
        """State to keep across a restart: tensors, plain data (numbers, strings, lists, tuples, dicts) and ``Rollout`` records."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state but was given {sorted(state)}")


@dataclass(frozen=True)
class Needs:
    """What a component reads. What nobody needs is never computed.

    ``policy``: quantities of the policy, ``logprobs`` | ``entropy`` | ``hidden`` (after the final norm, at the completion tokens' own
    positions) | ``states`` (the same at the positions before, where each token was chosen) or one that a component provides (``values``).
    Losses and regularisers get them with gradient in the learn stage, credits and shapers without in the prepare stage (where
    ``logprobs`` are always at hand as the batch's).
    ``fixed``: what the learn stage needs as it was at the start of the batch: ``old_NAME`` of a provided quantity, or what the credit
    ``gives`` (``returns``).
    ``reference``: quantities of the references in ``to``: ``logprobs`` | ``hidden``.
    ``scope``: whether rows that the sampler dropped are needed too.
    """

    policy: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    reference: frozenset[str] = frozenset()
    to: str | None = None
    scope: Scope = "chosen"


@dataclass(frozen=True)
class ModelDims:
    """What a component may need to know of the policy to build modules."""

    hidden_size: int
    vocab_size: int


class Task(Component, ABC):
    """Yields problems with their golds. Both splits must be the same on every call and every rank."""

    @abstractmethod
    def train(self) -> Sequence[Example]:
        """Problems to learn on. May be lazy: ``len`` and indexing are enough. The engine shuffles."""

    def evaluation(self) -> Sequence[Example]:
        """Held-out problems; empty where the task has none."""
        return ()

    def describe(self) -> str:
        """One line for plan and manifest: where the rows came from, how many."""
        return f"{len(self.train())} training problems, {len(self.evaluation())} held out"


class PolicyHandle(Protocol):
    """What a rollout engine may use of the policy in this process."""

    @property
    def model(self) -> PreTrainedModel:
        """The policy, for its config; run it through ``decode``."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's tokenizer."""

    @property
    def version(self) -> int:
        """Optimizer steps taken."""

    @property
    def exact(self) -> bool:
        """float32 or wider and no autocast: log-probs sampled here equal those of the learner's forward."""

    def decode(self, **inputs: Any) -> Any:
        """The policy's forward without gradient, through the root module (sharded parameters are gathered there)."""

    def generate(self, **inputs: Any) -> Any:
        """The policy's own ``generate``, through the root module too."""

    def held(self) -> AbstractContextManager[Any]:
        """Around many forwards with the same weights: what each would do anew (autocast's copies of the weights) is done once."""


class RolloutEngine(Component, ABC):
    """Draws completions. Row ``key`` and the run's seed alone decide a row's random numbers, not which rows share its batch."""

    @abstractmethod
    def start(self, policy: PolicyHandle) -> None:
        """Called once before the first ``generate``."""

    def notes(self) -> Sequence[str]:
        """What a user should know of how this policy will be decoded: lines, shown once after ``start``."""
        return ()

    @abstractmethod
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion a request, in the order of the requests."""

    def exact(self) -> bool:
        """Whether sampled log-probs are those of the learner's own forward with the current weights. False costs one more forward."""
        return False

    def policy_version(self) -> int:
        """Optimizer steps taken by the weights that sample now."""
        raise NotImplementedError


class Reward(Component, ABC):
    """Says what a completion is worth.

    It is built where the run is, to be asked ``in_process``, ``time_limit`` and ``as_completion``, and built, started and asked ``score``
    in each worker process. Its module imports no torch, so that workers are small and start fast.
    """

    whole_batch: ClassVar[bool] = False
    """Whether ``score`` wants all completions of a roll at once. Otherwise it gets them one by one, each under the time limit."""

    def in_process(self) -> bool:
        """Whether it may run in the training process, where nothing can stop it: only what is cheap whatever the completion holds."""
        return False

    def time_limit(self) -> float | None:
        """Seconds that one call of ``score`` may take where the spec's `scoring.timeout_s` does not fit; None: that."""
        return None

    def start(self) -> Sequence[str]:
        """Load what the first completion would need, once in each process that scores. Returns what the user should be warned of."""
        return ()

    states_answers: bool = False
    """Whether ``answer`` finds answers; otherwise there is no vote."""

    looks_at_golds: bool = False
    """Whether ``gold_problems`` is to be asked before a run."""

    @abstractmethod
    def score(self, items: Sequence[RewardItem]) -> Sequence[Outcome]:
        """One outcome an item, in order. A bad completion is an outcome; an exception is taken for status ``error``, an RlvrError ends
        the run."""

    def as_completion(self, gold: str) -> str | None:
        """The gold written as a completion that must get full marks; None where the reward cannot be checked so."""
        return None

    def gold_problems(self, golds: Sequence[str]) -> Sequence[str]:
        """For each gold why no completion can be judged by it; empty text where one can. Asked before a run, where
        ``looks_at_golds``, once for every gold; `scoring.unusable_golds` says what becomes of such rows."""
        return [""] * len(golds)

    def answer(self, completion: str) -> str | None:
        """What the reward takes for the completion's answer, written so that equal answers are equal text; None where it finds none.

        Votes (maj@k) are counted by it, where ``states_answers``.
        """
        return None


class Sampler(Component, ABC):
    """Chooses which rollouts reach the learner. Sees every rollout of the step on every rank; must choose alike on each."""

    @abstractmethod
    def select(self, scored: Sequence[Rollout], round: int) -> Selection:
        """``scored``: all rollouts of this step so far, whole groups. ``round``: refills done so far. Kept rollouts may come from
        earlier steps (a replay buffer is state). ``refill`` asks for that many more prompts; the engine bounds the rounds."""


class Correction(Component, ABC):
    """Importance weights and masks for rollouts that are not exactly the current policy's. Not asked where all rollouts are exact."""

    @abstractmethod
    def importance(self, logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor) -> Tensor:
        """[B,T] x 3 -> [B,T] factors of the loss, >= 0; 0 removes the token."""


class Shaper(Component, ABC):
    """Changes rewards before credit, for every rollout of the groups concerned."""

    def needs(self) -> Needs:
        return Needs()

    @abstractmethod
    def shape(self, batch: Batch) -> Tensor:
        """What to add to the rewards: [B] per sequence or [B,T] per token."""


class CreditAssigner(Component, ABC):
    """Says what each kept sequence or token is worth. Runs on whole groups, alike on every rank."""

    gives: ClassVar[frozenset[str]] = frozenset()
    """What it hands to the learn stage besides advantage and weight: ``returns``."""

    def needs(self) -> Needs:
        return Needs()

    @abstractmethod
    def credit(self, batch: Batch) -> Credit:
        """Rows that were not chosen are ignored."""


class Differentiable(Component, ABC):
    """What losses and regularisers share."""

    provides: ClassVar[frozenset[str]] = frozenset()
    """Names of [B,T] quantities that ``provide`` computes from the policy, for this and other components."""

    def needs(self) -> Needs:
        return Needs(policy=frozenset({"logprobs"}))

    def build(self, policy: PreTrainedModel, dims: ModelDims) -> nn.Module | None:
        """Trainable modules of its own, made once, under a seeded generator; they join the policy under the root module."""
        return None

    def learning_rate(self) -> float | None:
        """Rate for its own modules; None: the policy's."""
        return None

    def provide(self, name: str, batch: MicroBatch) -> Tensor:
        """Compute one of ``provides`` for a micro-batch: [B,T]."""
        raise NotImplementedError

    def denominators(self, batch: Batch, credit: Credited) -> Mapping[str, Tensor]:
        """Denominators of its own, which its terms name in ``over``: name -> [B], each row's share.

        The engine sums them over the minibatch's rows on all ranks: the chosen ones, or all for a term whose scope is ``all``.
        """
        return {}

    @abstractmethod
    def terms(self, batch: MicroBatch) -> Mapping[str, Term]:
        """Its summands for these rows, undivided. Called inside the root module's forward."""


class Loss(Differentiable):
    """Pushes log-probabilities, given credit: ``terms`` reads ``advantage``, ``weight`` and ``importance``."""


class Regulariser(Differentiable):
    """An added term.

    Options hold ``coef`` (0: the part is dropped and nothing is computed for it), and ``to`` where it needs a reference.
    """


class Reference(Component, ABC):
    """A policy to hold on to: a copy that the optimizer does not move."""

    moves: ClassVar[bool] = False
    """Whether ``follow`` changes it. A still reference's log-probs are computed once a batch."""

    @abstractmethod
    def build(self, policy: PreTrainedModel) -> PreTrainedModel:
        """The reference's model, made before the first step; no gradient, evaluation mode."""

    def follow(self, policy: PreTrainedModel) -> None:
        """Called after each optimizer step. Not called for a step without signal."""


class Observer(Component):
    """Is told of events on the main process, changes nothing."""

    def observe(self, event: Event) -> None:
        """One of ``rlvr_core.events``."""

    def close(self) -> None:
        """Called once at the very end, also after an error."""


@dataclass(frozen=True)
class Kind:
    """One kind of component: the hook that registers it and the class it derives from."""

    name: str
    hook: str
    base: type[Component] | None
    plural: str = field(default="")


def _kind(name: str, base: type[Component] | None, plural: str = "") -> Kind:
    plural = plural or name + "s"
    return Kind(name, f"register_{plural}", base, plural)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind("objective", None),
        _kind("sampler", Sampler),
        _kind("correction", Correction),
        _kind("shaper", Shaper),
        _kind("credit", CreditAssigner),
        _kind("loss", Loss, "losses"),
        _kind("reference", Reference),
        _kind("regulariser", Regulariser),
        _kind("task", Task),
        _kind("rollout", RolloutEngine),
        _kind("reward", Reward),
        _kind("observer", Observer),
    )
}
