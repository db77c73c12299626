"""The frozen records that travel between rooms.

Axes, used in names and docs throughout:

    B  sequences (rows)          T  completion tokens, right-padded      G  rollouts of one prompt (group)
    D  hidden size               V  vocabulary                           P  prompts of a step

Masks come from lengths: a policy may well sample the pad token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rlvr_core.errors import ContractError

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr_core.policy.forward import Rows

FinishReason = Literal["stop", "length"]
Status = Literal["ok", "abstain", "no_answer", "unparsed", "timeout", "crash", "error"]
Scope = Literal["chosen", "all"]


@dataclass(frozen=True)
class Example:
    """One problem of a task, before tokenisation.

    ``prompt`` is text, or a list of chat messages (``{"role", "content"}``). ``gold`` is what rewards compare with.
    ``columns`` holds whatever else the row had, handed to rewards by name.
    """

    id: str
    prompt: str | Sequence[Mapping[str, str]]
    gold: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What one reward says of one completion. ``value`` is None where the reward gives none (see ``status``)."""

    value: float | None
    status: Status = "ok"
    reason: str = ""
    ms: float = 0.0


@dataclass(frozen=True)
class RewardItem:
    """What a reward sees: decoded texts and the example's own columns."""

    prompt: str
    completion: str
    gold: str
    columns: Mapping[str, Any] = field(default_factory=dict)


class RowKey(NamedTuple):
    """Names one rollout for good; every random number that belongs to it is derived from this and the run's seed."""

    step: int
    prompt: int
    """Position of the prompt among those drawn in this step (refills count on)."""
    sample: int

    @property
    def group(self) -> tuple[int, int]:
        """Rollouts of one prompt share this."""
        return (self.step, self.prompt)


@dataclass(frozen=True)
class Request:
    """One completion asked of a rollout engine."""

    key: RowKey
    prompt_ids: tuple[int, ...]
    max_completion_length: int | None = None
    """This row's own limit, where it is below the run's."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. ``temperature`` 0 is greedy. Lengths are in tokens, the end token included.

    Before ``min_completion_length`` no end token is drawn (their probability is 0, and the others' sum to 1) and no stop string ends a row.
    """

    temperature: float
    max_completion_length: int
    stop_token_ids: tuple[int, ...]
    stop_strings: tuple[str, ...]
    seed: int
    min_completion_length: int = 0


@dataclass(frozen=True)
class Completion:
    """One sampled completion. ``logprobs`` are those it was sampled with, at the sampling temperature, in nats."""

    key: RowKey
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class Rollout:
    """A scored completion, complete in itself: it can be gathered, kept in a buffer and learned from later."""

    key: RowKey
    example: Example
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    exact: bool
    """The sampled log-probs equal those of the learner's own forward (same process and weights, float32, no autocast)."""
    policy_version: int
    """Optimizer steps taken by the policy that sampled it."""
    text: str = ""
    action_mask: tuple[bool, ...] | None = None
    """True where the policy chose the token; None: everywhere. False: put there by a tool or an environment."""
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    reward: float = 0.0
    group_rewards: tuple[float, ...] = ()
    """Rewards of every rollout of its group that counts, this one's included if it does, in the order of their samples."""
    group_dropped: tuple[int, ...] = ()
    """Sample indices of its group that are dropped, ascending: they have no place in ``group_rewards``."""
    dropped: str = ""
    """Why it is left out of learning and of its group's statistics; empty: it counts."""
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens: what a forward over this row costs."""
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def group_index(self) -> int:
        """Its place in ``group_rewards``."""
        return self.key.sample - bisect_left(self.group_dropped, self.key.sample)


@dataclass(frozen=True)
class Selection:
    """What a sampler decided: the rollouts to learn from, how many more prompts it wants (0: none), numbers for the step's row."""

    kept: Sequence[Rollout]
    refill: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """One prompt's rollouts as credit sees them."""

    rows: Tensor
    """[n] int64: the rows of the batch that belong to this group and were chosen."""
    rewards: Tensor
    """[G]: rewards of all rollouts of the group, chosen or not, after shapers; those that scoring dropped are not among them."""


@dataclass(frozen=True)
class Batch:
    """Everything prepared, without gradient, for one step. The same on every rank, on the CPU.

    Rows are the chosen rollouts, then those that only a scope of ``all`` brought in.
    """

    rollouts: tuple[Rollout, ...]
    chosen: Tensor
    """[B] bool."""
    mask: Tensor
    """[B,T] bool: tokens the policy chose. Everything else in [B,T] tensors is padding, and zero."""
    rewards: Tensor
    """[B]: the weighted sum of the rewards, after sequence shapers."""
    token_rewards: Tensor | None
    """[B,T]: what shapers added per token (KL in the reward); None without such a shaper."""
    logprobs: Tensor
    """[B,T]: under the policy about to be updated; the 'old' log-probs of a ratio."""
    sampling_logprobs: Tensor
    """[B,T]: as sampled."""
    groups: tuple[Group, ...]
    max_completion_length: int
    """The run's limit, in tokens."""
    references: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """reference label -> quantity -> [B,T]; only what was declared for the prepare stage."""
    provided: Mapping[str, Tensor] = field(default_factory=dict)
    """Quantities a component provides (``values`` of a critic): [B,T]."""

    @property
    def sequence_rewards(self) -> Tensor:
        """[B]: rewards with what shapers added per token summed in."""
        if self.token_rewards is None:
            return self.rewards
        return self.rewards + self.token_rewards.sum(-1)


@dataclass(frozen=True)
class Credit:
    """What each kept sequence or token is worth.

    ``advantage`` is signed, ``weight`` is >= 0 (None: 1 everywhere); each [B] or [B,T]. ``returns`` [B,T] are a critic's
    targets. ``metrics`` are plain numbers for the step's row.
    """

    advantage: Tensor
    weight: Tensor | None = None
    returns: Tensor | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Credited:
    """Credit and correction of a whole batch, spread over tokens: each [B,T] float64, and [B] for ``row_weight``."""

    advantage: Tensor
    weight: Tensor
    row_weight: Tensor
    importance: Tensor
    returns: Tensor | None

    def has_signal(self, batch: Batch) -> bool:
        """Whether any chosen token is pushed at all."""
        push = (self.advantage * self.weight * self.importance).where(batch.mask & batch.chosen[:, None], 0.0)
        return bool((push != 0).any())


@dataclass(frozen=True)
class Term:
    """One summand of the loss, for a micro-batch, before any division.

    ``values``: per token [B,T] or per sequence [B], with gradient; padding is ignored. ``over``: what they are averaged over,
    counted over the whole minibatch and all ranks: ``agg`` (the objective's loss_agg_mode), ``tokens``, ``sequences``,
    ``prompts``, ``weight``, ``batch``, a number, or a name from the component's ``denominators``. ``coef`` multiplies it.
    """

    values: Tensor
    over: str | float = "agg"
    scope: Scope = "chosen"
    coef: float = 1.0


@dataclass
class MicroBatch:
    """What losses and regularisers see: some rows of a batch, with gradient where they are the policy's.

    Only quantities a component declared in its ``needs`` are there. Asking for another raises.
    """

    chosen: Tensor
    """[B] bool; a dummy row is not chosen."""
    mask: Tensor
    """[B,T] bool."""
    advantage: Tensor
    """[B,T]."""
    weight: Tensor
    """[B,T]: credit weight."""
    row_weight: Tensor
    """[B]: credit weight of the sequence (mean over its tokens where credit gave one per token)."""
    old_logprobs: Tensor
    """[B,T]: under the policy at the start of the batch."""
    sampling_logprobs: Tensor
    """[B,T]."""
    importance: Tensor
    """[B,T]: correction for rollouts that are not exactly the policy's; 1 without a correction, 0 where it masks."""
    temperature: float
    quantities: dict[str, Tensor] = field(default_factory=dict)
    """``logprobs`` [B,T], ``entropy`` [B,T], ``hidden`` [B,T,D] and provided ones, each with gradient."""
    references: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """label -> ``logprobs`` [B,T] or ``hidden`` [B,T,D], without gradient."""
    fixed: dict[str, Tensor] = field(default_factory=dict)
    """Per-token tensors from prepare and credit: ``returns``, ``old_values``."""
    rows: Rows | None = None
    """The padded token ids, for components that run a model of their own."""
    normal: Callable[[str, int, float], Tensor] | None = None
    """``normal(name, size, std)`` -> [B,size]: noise keyed by seed, step, iteration, prompt and sample."""
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __getitem__(self, quantity: str) -> Tensor:
        """A declared quantity of the policy."""
        if quantity not in self.quantities:
            raise ContractError(
                f"a component reads '{quantity}' without declaring it in needs(); there: {sorted(self.quantities)}"
            )
        return self.quantities[quantity]

    def log(self, name: str, values: Tensor, where: Tensor | None = None) -> None:
        """Report the mean of ``values`` ([B,T] or [B]) over chosen tokens or rows, or over ``where`` (bool, same shape)."""
        if where is None:
            where = self.mask & self.chosen[:, None] if values.dim() == 2 else self.chosen
        kept = values.detach().double()
        total = kept.where(where, kept.new_zeros(())).sum()
        self.metrics[name] = (total, where.double().sum())
