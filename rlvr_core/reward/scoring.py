"""The rewards of a run, each where it belongs: in this process if it says so, else in workers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlvr_core.contracts import Reward
from rlvr_core.reward.pool import Limits, Pool, PooledReward, builders, default_workers
from rlvr_core.spec.model import ScoringSection
from rlvr_core.spec.resolved import Bound


@dataclass
class Scoring:
    """Rewards by label, ready to be asked, and the pool behind them where one is needed. Close it at the end."""

    rewards: Mapping[str, Reward]
    pool: Pool | None
    warnings: tuple[str, ...]

    def ready(self) -> list[str]:
        """Wait until it can score; what the user should be warned of. Raises SpecError where a reward cannot be built."""
        return [*self.warnings, *(self.pool.ready() if self.pool else ())]

    def close(self) -> None:
        """End the workers. May be called again."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None


def start_scoring(bounds: Mapping[str, Bound], options: ScoringSection) -> Scoring:
    """Build the rewards, and start workers for those that want them; they get ready while other things are loaded."""
    built: dict[str, Reward] = {label: bound.build() for label, bound in bounds.items()}
    here = {label: reward for label, reward in built.items() if reward.in_process()}
    away = {label: reward for label, reward in built.items() if label not in here}
    warnings = tuple(line for reward in here.values() for line in reward.start())
    if not away:
        return Scoring(built, None, warnings)
    limits = Limits(options.workers or default_workers(), options.timeout_s, options.memory_mb, options.recycle_after)
    pool = Pool(builders(away), limits)
    pooled = {label: PooledReward(label, reward, pool) for label, reward in away.items()}
    return Scoring({label: pooled.get(label, reward) for label, reward in built.items()}, pool, warnings)
