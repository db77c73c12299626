"""Checks of what surrounds the objective: tasks, rollout engines, rewards, observers."""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from rlvr_core.checkpoint.state import read
from rlvr_core.events import Evaluated, Event, Notice, RunFinished, RunStarted, Saved, StepFinished
from rlvr_core.policy.forward import Head, collate, completion_quantities
from rlvr_core.policy.handle import LocalPolicy
from rlvr_core.records import Completion, Example, FinishReason, Outcome, Request, RewardItem, RowKey, Sampling, Status
from rlvr_core.testing.bench import Bench
from rlvr_core.testing.fakes import tiny_policy, tiny_tokenizer
from rlvr_core.testing.host import KIT, Subject, with_components
from rlvr_core.testing.kit import Failed, NotApplicable, check_for, expect
from rlvr_core.testing.learning import global_seed
from rlvr_core.testing.scenarios import mixed

LOOKED_AT = 64
"""Rows of a split that are looked at."""

# Tasks


def _rows(split: Sequence[Example]) -> list[Example]:
    return [split[i] for i in range(min(LOOKED_AT, len(split)))]


@check_for("task")
def its_problems_are_whole(subject: Subject) -> None:
    """Each problem has an id of its own, a prompt, a gold, and can travel between processes."""
    task = subject.build()
    expect(len(task.train()) > 0, "it has no training problems")
    rows = _rows(task.train())
    ids = [row.id for row in rows]
    expect(
        len(set(ids)) == len(ids), f"ids come twice: {[i for i in ids if ids.count(i) > 1][:2]}; evaluations and filters go by id"
    )
    for row in [*rows, *_rows(task.evaluation())]:
        where = f"problem {row.id!r}"
        expect(isinstance(row.id, str) and isinstance(row.gold, str), f"{where}: id and gold must be text")
        expect(bool(row.prompt), f"{where}: the prompt is empty")
        if not isinstance(row.prompt, str):
            whole = all(set(message) >= {"role", "content"} for message in row.prompt)
            expect(whole, f"{where}: a prompt of chat messages needs role and content in each")
        expect(_travels(row), f"{where}: does not survive pickling; keep plain data in columns")
    expect("\n" not in task.describe() and bool(task.describe()), "describe() must be one line")


def _travels(row: Example) -> bool:
    try:
        return bool(pickle.loads(pickle.dumps(row)) == row)  # noqa: S301 - our own bytes
    except Exception:  # whatever stands in a row may fail in any way
        return False


@check_for("task")
def it_is_the_same_on_every_call_and_rank(subject: Subject) -> None:
    """Another instance, another call, another global seed: the same problems in the same places."""
    found = []
    for seed in (1, 2):
        with global_seed(seed):
            task = subject.build()
            found += [[_rows(split) for split in (task.train(), task.evaluation())] for _ in range(2)]
    same = all(other == found[0] for other in found[1:])
    expect(
        same,
        "the problems differ from call to call; draw from rlvr_core.randomness.generator; the engine shuffles",
    )


@check_for("task")
def nothing_held_out_is_trained_on(subject: Subject) -> None:
    """No held-out problem is among the training problems."""
    task = subject.build()
    held_out = _rows(task.evaluation())
    if not held_out:
        raise NotApplicable("it holds out nothing")
    some = [task.train()[i] for i in range(min(4096, len(task.train())))]
    both = {str(row.prompt) for row in held_out} & {str(row.prompt) for row in some}
    expect(not both, f"{len(both)} held-out problems are training problems too, as {min(both)[:80]!r}" if both else "")


# Rollout engines


def _engine(subject: Subject, dtype: torch.dtype = torch.float64) -> tuple[Any, Bench]:
    """An engine at work on a tiny policy whose vocabulary the embedded tokenizer covers."""
    policy = tiny_policy(dtype=dtype, vocab_size=len(tiny_tokenizer()))
    bench = Bench.of({"name": "kit"}, installed=with_components(subject.installed, *KIT), policy=policy)
    engine = subject.build()
    engine.start(LocalPolicy(bench.learner, tiny_tokenizer()))
    return engine, bench


def _requests() -> list[Request]:
    """Prompts of different lengths, two samples of each."""
    prompts = [(72, 105), (49, 43, 50, 61), (65,), (66, 67, 68, 69, 70, 71)]
    return [Request(RowKey(1, p, sample), ids) for p, ids in enumerate(prompts) for sample in range(2)]


SAMPLING = Sampling(temperature=1.0, max_completion_length=6, stop_token_ids=(1, 2, 3), stop_strings=(), seed=0)


@check_for("rollout")
def it_answers_each_request_in_order(subject: Subject) -> None:
    """One completion a request, within the limit, a log-prob a token, and a finish reason that is true."""
    engine, bench = _engine(subject)
    requests = _requests()
    found: list[Completion] = engine.generate(requests, SAMPLING)
    expect(
        [c.key for c in found] == [r.key for r in requests], "completions do not come one a request, in the order of the requests"
    )
    vocabulary = bench.learner.root.policy.config.vocab_size
    for completion in found:
        ids = completion.ids
        expect(
            1 <= len(ids) <= SAMPLING.max_completion_length,
            f"a completion has {len(ids)} tokens, the limit is {SAMPLING.max_completion_length}",
        )
        expect(len(completion.logprobs) == len(ids), "log-probs do not come one a token; the end token has one too")
        expect(all(0 <= i < vocabulary for i in ids), "token ids outside the vocabulary")
        sound = all(math.isfinite(value) and value <= 1e-6 for value in completion.logprobs)
        expect(sound, "log-probs that are not finite or above 0")
        expect(
            completion.finish_reason in get_args(FinishReason),
            f"finish reason {completion.finish_reason!r}; stop or length is wanted",
        )
        ended = ids[-1] in SAMPLING.stop_token_ids
        expect(
            ended == (completion.finish_reason == "stop"),
            "the finish reason is not what happened: 'stop' where a stop token ended it",
        )
        expect(not any(i in SAMPLING.stop_token_ids for i in ids[:-1]), "a completion goes on after a stop token")
    version = engine.policy_version()
    expect(isinstance(version, int) and version >= 0, f"policy_version() gave {version!r}; optimizer steps taken are wanted")


@check_for("rollout")
def a_rows_text_is_its_own(subject: Subject) -> None:
    """Key and seed alone decide a row's text: not its companions, their order, or a global generator; other seeds give others."""
    requests = _requests()

    def texts(some: Sequence[Request], seed: int = 0, manual: int = 0) -> dict[Any, tuple[int, ...]]:
        with global_seed(manual):
            engine, _ = _engine(subject)
            return {c.key: c.ids for c in engine.generate(some, replace(SAMPLING, seed=seed))}

    whole = texts(requests)
    why = "draw from rlvr_core.randomness.stream_seeds, named by the request's key and Sampling.seed"
    expect(texts(requests, manual=5) == whole, f"texts change with the global generator; {why}")
    expect(texts(requests[::-1]) == whole, f"texts change with the order of requests; {why}")
    alone = {key: ids for request in requests[:3] for key, ids in texts([request]).items()}
    expect(all(whole[key] == ids for key, ids in alone.items()), f"a row decoded alone has another text; {why}")
    expect(texts(requests, seed=1) != whole, "another seed gives the same texts")


@check_for("rollout")
def exact_means_exact(subject: Subject) -> None:
    """Where it says that its log-probs are those of the learner's own forward, at the sampling temperature, they are: to 1e-4."""
    engine, bench = _engine(subject, torch.float32)
    if not engine.exact():
        raise NotApplicable("it does not claim to be exact")
    for temperature in (1.0, 0.6):
        _exact(engine, bench, replace(SAMPLING, temperature=temperature))


def _exact(engine: Any, bench: Bench, sampling: Sampling) -> None:
    for completion, request in zip(engine.generate(_requests(), sampling), _requests(), strict=True):
        row = replace(mixed()[0], prompt_ids=request.prompt_ids, completion_ids=completion.ids, logprobs=completion.logprobs)
        policy = bench.learner.root.policy
        with torch.no_grad():
            forced = completion_quantities(
                policy, Head(policy), collate([row], torch.device("cpu")), frozenset({"logprobs"}), sampling.temperature, 1024
            )
        gap = float((forced["logprobs"][0] - torch.tensor(completion.logprobs)).abs().max())
        expect(
            gap <= 1e-4,
            f"at temperature {sampling.temperature} its log-probs are up to {gap:.2g} nats off the policy's own forward, whose logits are "
            "divided by it; return False from exact() where that cannot be mended",
        )


@check_for("rollout")
def a_stop_string_ends_a_completion(subject: Subject) -> None:
    """A completion ends with the token that makes its text hold a stop string, and says so."""
    engine, _ = _engine(subject)
    free = next(c for c in engine.generate(_requests(), SAMPLING) if len(c.ids) >= 3)
    stop = str(tiny_tokenizer().decode([free.ids[1]]))
    stopped = next(c for c in engine.generate(_requests(), replace(SAMPLING, stop_strings=(stop,))) if c.key == free.key)
    texts = [str(tiny_tokenizer().decode(list(stopped.ids[:n]))) for n in range(1, len(stopped.ids) + 1)]
    expect(
        stopped.finish_reason == "stop",
        f"a completion that holds the stop string {stop!r} says it ended by {stopped.finish_reason}",
    )
    expect(not any(stop in text for text in texts[:-1]), f"a completion goes on after the stop string {stop!r}")


@check_for("rollout")
def temperature_zero_is_greedy(subject: Subject) -> None:
    """At temperature 0 all samples of a prompt are alike."""
    engine, _ = _engine(subject)
    if not engine.exact():
        raise NotApplicable("it does not decode with the policy's own weights")
    found = engine.generate(_requests(), replace(SAMPLING, temperature=0.0))
    pairs = [(found[i].ids, found[i + 1].ids) for i in range(0, len(found), 2)]
    expect(all(one == other for one, other in pairs), "at temperature 0 two samples of a prompt differ")


# Rewards

HOSTILE = (
    "", " ", "\n" * 1000, "\x00\ud800"[:1], "{" * 5000, "\\boxed{" * 500, "}" * 500, "9" * 20_000, "\\boxed{9^{9^{9^{9}}}}", "a" * 100_000,
    "\u202e\u0661\u0662", "```python\n", "'; DROP TABLE rollouts; --", "%s%n{0}{}", "<think>", "nan", "inf", "-0",
)  # fmt: skip
"""Completions that a policy may well come up with."""


def _items(subject: Subject) -> list[RewardItem]:
    """Right, wrong and hostile completions for a few golds."""
    golds = ("7", "12", "-3")
    reward = subject.build()
    stated = [(gold, text) for gold in golds if (text := reward.as_completion(gold)) is not None]
    plain = [(gold, text) for gold in golds for text in ("7", "12", "the answer is 12", "\\boxed{7}")]
    return [RewardItem("What is it?", text, gold) for gold, text in [*stated, *plain, *((golds[0], text) for text in HOSTILE)]]


@check_for("reward")
def no_completion_breaks_it(subject: Subject) -> None:
    """One outcome an item, in order: a status that exists, a finite value or none. A bad completion is an outcome, not an exception."""
    items = _items(subject)
    outcomes: Sequence[Outcome] = subject.build().score(items)
    expect(len(outcomes) == len(items), f"{len(outcomes)} outcomes for {len(items)} items; one each is wanted")
    for item, outcome in zip(items, outcomes, strict=True):
        expect(
            isinstance(outcome, Outcome), f"score() gives a {type(outcome).__name__}; an Outcome each is wanted, as Outcome(1.0)"
        )
        where = f"completion {item.completion[:20]!r}"
        expect(outcome.status in get_args(Status), f"{where}: status {outcome.status!r}; known: {', '.join(get_args(Status))}")
        expect(
            outcome.value is None or math.isfinite(outcome.value),
            f"{where}: value {outcome.value}; a finite number or None is wanted",
        )
        expect(outcome.value is not None or outcome.status != "ok", f"{where}: status ok without a value; 'abstain' gives none")
    expect(len(subject.build().score([])) == 0, "no items give outcomes all the same")


@check_for("reward")
def an_item_is_scored_on_its_own(subject: Subject) -> None:
    """Companions, order and earlier calls change no value."""
    items = [item for item in _items(subject) if len(item.completion) < 1000]
    reward = subject.build()

    def values(some: Sequence[RewardItem]) -> list[float | None]:
        return [outcome.value for outcome in reward.score(some)]

    whole = values(items)
    expect(values(items) == whole, "the same items scored again get other values")
    expect(values(items[::-1])[::-1] == whole, "the order of items changes their values")
    expect(
        [values([item])[0] for item in items] == whole,
        "an item scored alone gets another value; compare groups in a credit instead",
    )


@check_for("reward")
def its_own_statement_of_a_gold_is_right(subject: Subject) -> None:
    """What as_completion() says of a gold gets full marks: runs check their data so."""
    reward = subject.build()
    stated = [(gold, text) for gold in ("7", "12", "-3") if (text := reward.as_completion(gold)) is not None]
    if not stated:
        raise NotApplicable("as_completion() gives None")
    scored = [(gold, text, reward.score([RewardItem("", text, gold)])[0]) for gold, text in stated]
    if all(outcome.value is None for _, _, outcome in scored):
        raise NotApplicable("it gives none a value without columns of its own tasks")
    for gold, text, outcome in scored:
        expect(outcome.value == 1.0, f"as_completion({gold!r}) gives {text!r}, which scores {outcome.value} and not 1")


# Observers


def _events(folder: Path) -> list[Event]:
    """A short run's events."""
    evaluated = {"pass@1": 0.5, "n": 2, "samples": 1, "stderr": 0.1}
    metrics = {
        "step": 1,
        "reward/mean": 0.5,
        "select/kept": 2.0,
        "select/scored": 4.0,
        "time/tokens_per_second": 10.0,
        "learn/skipped": 0.0,
    }
    summary = {
        "objective": "kit",
        "steps": 1,
        "wall_s": 1.0,
        "status": "finished",
        "eval": {"before": evaluated, "after": evaluated},
        "written": {},
    }
    return [
        Notice("task: made up"), Notice("look out", "warning"), RunStarted(folder, 1, 1, {"seed": 0}), Evaluated("before", 0, evaluated),
        StepFinished(1, metrics, mixed()), Saved(folder / "checkpoint", 1), Evaluated("after", 1, evaluated), RunFinished(folder, summary),
    ]  # fmt: skip


@check_for("observer")
def it_hears_a_run_from_end_to_end(subject: Subject) -> None:
    """Every event of a run passes, in order, and one that it does not know; then it is closed."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        observer = subject.build()
        for event in [*_events(Path(folder)), Event()]:
            try:
                observer.observe(event)
            except Exception as error:
                raise Failed(
                    f"{type(event).__name__} makes it raise {type(error).__name__}: {' '.join(str(error).split())[:200]}; an observer must "
                    "let pass what it does not know, and a failing one ends the run"
                ) from error
        observer.close()


@check_for("observer")
def it_may_be_closed_before_the_run_starts(subject: Subject) -> None:
    """A run may end by an error before its first event."""
    subject.build().close()


@check_for("observer")
def it_changes_nothing_that_it_is_told(subject: Subject) -> None:
    """Other observers are told the same."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        told, kept = _events(Path(folder)), _events(Path(folder))
        observer = subject.build()
        for event in told:
            observer.observe(event)
        observer.close()
    changed = [type(event).__name__ for event, before in zip(told, kept, strict=True) if event != before]
    expect(not changed, f"it changes the event {', '.join(changed)}; copy what you want to change")


@check_for("task", "rollout", "reward", "observer")
def its_state_comes_back(subject: Subject) -> None:
    """What state_dict() gives goes through a file and back into a new instance."""
    state = subject.build().state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    try:
        fresh = subject.build()
        fresh.load_state_dict(read(file, torch.device("cpu")))
    except Exception as error:
        raise Failed(
            f"its state does not come back: {' '.join(str(error).split())[:200]}; tensors, plain data and Rollout records do"
        ) from error
    expect(fresh.state_dict() == state, "load_state_dict() does not restore what state_dict() gave")
