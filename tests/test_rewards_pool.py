"""Workers: a completion costs itself at most, whatever it does to them. With real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlvr_core.errors import DataError, SpecError
from rlvr_core.options import Options
from rlvr_core.plugins import catalogue
from rlvr_core.records import Outcome, RewardItem
from rlvr_core.reward.pool import Limits, Pool, PooledReward, builder
from rlvr_core.reward.scoring import start_scoring
from rlvr_core.reward.wire import Frames, frame
from rlvr_core.spec.model import ScoringSection
from rlvr_core.spec.resolve import resolve
from rlvr_core.spec.source import parse_yaml

HOSTILE = '''
import os, time
from rlvr_core.contracts import Reward
from rlvr_core.records import Outcome


class Hostile(Reward):
    """Does what the completion says; else the value is the completion, and the reason is this process."""

    def score(self, items):
        return [self.one(item.completion) for item in items]

    def one(self, text):
        if text == "hang":
            while True: pass
        if text == "sleep":
            time.sleep(600)
        if text == "exit":
            os._exit(3)
        if text == "grow":
            hold = []
            while True: hold.append(bytearray(2**22))
        if text == "raise":
            raise RuntimeError("no\\nsense")
        if text == "print":
            print("to whom it may concern" * 10_000); os.write(1, b"x" * 100_000)
            return Outcome(1.0)
        if text == "read":
            return Outcome(float(len(open(0).read())))
        if text == "nan":
            return Outcome(float("nan"))
        return Outcome(float(text), reason=str(os.getpid()))


class Whole(Hostile):
    whole_batch = True

    def score(self, items):
        return [Outcome(o.value, reason=str(len(items))) for o in super().score(items)]


class Unbuildable(Hostile):
    def start(self):
        raise OSError("no such judge")


class Dying(Hostile):
    def start(self):
        os._exit(5)


class Warning(Hostile):
    def start(self):
        return ["half of it is missing"]
'''


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pool]]:
    """Makes pools of a reward of the module above."""
    (tmp_path / "hostile_rewards.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    pools: list[Pool] = []

    def make(name: str = "Hostile", workers: int = 1, seconds: float = 0.5, memory_mb: int = 1024, items: int = 1000) -> Pool:
        import hostile_rewards  # type: ignore[import-not-found]

        limits = Limits(workers, seconds, memory_mb, items)
        pools.append(Pool({"mine": builder(getattr(hostile_rewards, name), Options())}, limits))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    sys.modules.pop("hostile_rewards", None)


def items(*completions: object) -> list[RewardItem]:
    return [RewardItem("", str(c), "") for c in completions]


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [o.status for o in outcomes]


@pytest.mark.parametrize(
    ("what", "status", "reason"),
    [
        ("hang", "timeout", "not done after"),
        ("sleep", "timeout", "not done after"),
        ("exit", "crash", "exit code 3"),
        ("grow", "crash", "MiB"),
        ("raise", "error", "RuntimeError: no sense"),
    ],
)
def test_a_bad_item_costs_itself_alone(hostile: Callable[..., Pool], what: str, status: str, reason: str) -> None:
    pool = hostile(memory_mb=256)
    outcomes = pool.score("mine", items(1, what, 2, 3, what, 4))
    assert statuses(outcomes) == ["ok", status, "ok", "ok", status, "ok"]
    assert [o.value for o in outcomes] == [1.0, None, 2.0, 3.0, None, 4.0]
    assert reason in outcomes[1].reason


def test_order_is_kept_over_many_items_and_workers(hostile: Callable[..., Pool]) -> None:
    pool = hostile(workers=2)
    while not all(worker.ready for worker in pool.workers):
        pool._turn()
    outcomes = pool.score("mine", items(*range(500)))
    assert [o.value for o in outcomes] == [float(i) for i in range(500)]
    assert len({o.reason for o in outcomes}) == 2, "both worked"
    assert pool.score("mine", []) == []


def test_a_whole_batch_is_one_call_and_after_a_fault_one_for_each(hostile: Callable[..., Pool]) -> None:
    pool = hostile("Whole")
    assert [o.reason for o in pool.score("mine", items(1, 2, 3), whole_batch=True)] == ["3", "3", "3"]
    for bad, status in (("hang", "timeout"), ("exit", "crash"), ("raise", "error")):
        outcomes = pool.score("mine", items(1, bad, 3), whole_batch=True)
        assert statuses(outcomes) == ["ok", status, "ok"]
        assert outcomes[2].reason == "1"


def test_large_completions_and_output_do_not_block(hostile: Callable[..., Pool]) -> None:
    pool = hostile(seconds=20)
    long = [RewardItem("x" * 1_000_000, str(i), "") for i in range(40)]
    assert [o.value for o in pool.score("mine", long)] == [float(i) for i in range(40)]
    assert [o.value for o in pool.score("mine", items("print", "read", 7))] == [1.0, 0.0, 7.0]


def test_a_worker_is_replaced_after_its_number_of_items(hostile: Callable[..., Pool]) -> None:
    outcomes = hostile(items=10).score("mine", items(*range(35)))
    assert [o.value for o in outcomes] == [float(i) for i in range(35)]
    assert len({o.reason for o in outcomes}) == 4


def test_workers_killed_from_outside_are_replaced(hostile: Callable[..., Pool]) -> None:
    pool = hostile(workers=2)
    pool.score("mine", items(1, 2))
    for worker in pool.workers:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
    assert statuses(pool.score("mine", items(1, 2, 3))) == ["ok"] * 3, "between steps it costs nothing"
    while not all(worker.ready for worker in pool.workers):
        pool._turn()
    pool.workers[0].process.send_signal(signal.SIGSTOP)
    pool.workers[1].process.send_signal(signal.SIGKILL)
    outcomes = pool.score("mine", items(*range(8)))
    assert {o.value for o in outcomes} <= {None, *map(float, range(8))}
    assert sum(o.status != "ok" for o in outcomes) <= 2, "each worker costs one item at most"


def test_ill_formed_outcomes_end_the_run_and_the_pool_goes_on(hostile: Callable[..., Pool]) -> None:
    pool = hostile()
    with pytest.raises(DataError, match=r"rewards\.mine: gave nan for completion 0"):
        pool.score("mine", items("nan", 1, 2))
    assert [o.value for o in pool.score("mine", items(5))] == [5.0]


def test_a_column_that_cannot_be_sent_is_an_error(hostile: Callable[..., Pool]) -> None:
    with pytest.raises(DataError, match=r"rewards\.mine: a column"):
        pool = hostile()
        pool.ready()
        pool.score("mine", [RewardItem("", "1", "", {"check": lambda: None})])


def test_a_reward_that_cannot_be_built_or_dies_at_once_is_an_error(hostile: Callable[..., Pool]) -> None:
    with pytest.raises(SpecError, match="no such judge"):
        hostile("Unbuildable").ready()
    with pytest.raises(DataError, match=r"3 worker processes in a row did not get ready.*exit code 5"):
        hostile("Dying").ready()


def test_warnings_of_rewards_reach_the_run(hostile: Callable[..., Pool]) -> None:
    assert hostile("Warning", workers=2).ready() == ["half of it is missing"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids: list[int]) -> bool:
    """Within some seconds."""
    for _ in range(500):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent_also_in_the_middle_of_an_endless_item(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "hostile_rewards.py").write_text(HOSTILE)
    (tmp_path / "parent.py").write_text(
        textwrap.dedent("""
        import hostile_rewards, time
        from rlvr_core.options import Options
        from rlvr_core.records import RewardItem
        from rlvr_core.reward.pool import Limits, Pool, builder
        pool = Pool({"mine": builder(hostile_rewards.Hostile, Options())}, Limits(2, 600, 1024, 1000))
        pool.ready()
        print(*[w.process.pid for w in pool.workers], flush=True)
        pool.score("mine", [RewardItem("", "hang", "")] * 2)
        """)
    )
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    time.sleep(0.3)
    assert all(map(alive, pids))
    parent.send_signal(how)
    parent.wait(20)
    parent.stdout.close()
    assert gone(pids)


def test_messages_come_out_as_they_went_in_however_they_are_cut() -> None:
    messages = [b"", b"a", b"bc" * 70_000, b"{}"]
    stream = b"".join(map(frame, messages))
    for size in (1, 7, 65_536):
        if size == 1:
            stream, expected = b"".join(map(frame, messages[:2])), messages[:2]
        else:
            stream, expected = b"".join(map(frame, messages)), messages
        frames = Frames()
        found = [m for start in range(0, len(stream), size) for m in frames.feed(stream[start : start + size])]
        assert found == expected


def test_a_run_scores_in_workers_what_does_not_say_it_is_cheap() -> None:
    spec = "model: {name: m}\ntask: {name: arithmetic}\nobjective: {name: popo}\nrewards: {math: {}, exact: {}}\n"
    resolved = resolve(parse_yaml(spec, "spec.yaml"), catalogue())
    scoring = start_scoring(resolved.rewards, ScoringSection(workers=1))
    try:
        assert scoring.ready() == []
        assert isinstance(scoring.rewards["math"], PooledReward)
        assert not isinstance(scoring.rewards["exact"], PooledReward)
        answers = [RewardItem("", r"\boxed{4}", "4"), RewardItem("", r"\boxed{2\sqrt{2}}", r"\sqrt{8}"), RewardItem("", "4", "4")]
        assert [o.value for o in scoring.rewards["math"].score(answers)] == [1.0, 1.0, 0.0]
        assert scoring.rewards["math"].as_completion("7") == r"\boxed{7}"
    finally:
        scoring.close()


def test_workers_import_no_torch() -> None:
    code = "import rlvr_core.reward.worker, rlvr_core.reward.pool, rlvr_core.reward.scoring, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
