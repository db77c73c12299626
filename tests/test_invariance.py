"""The same data, split in any way, gives the same loss and gradients: those of a dense loss written plainly here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MambaConfig, MambaForCausalLM

from rlvr_core.errors import ModelError
from rlvr_core.learner import learner, micro, terms
from rlvr_core.learner.terms import Denominators
from rlvr_core.plugins import catalogue
from rlvr_core.policy.forward import keeps_rows_apart
from rlvr_core.records import Batch, MicroBatch, Rollout, Term
from rlvr_core.setup import make_trainable
from rlvr_core.testing import scripted_rollouts, tiny_policy
from rlvr_core.testing.bench import Bench

REWARDS = [[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]
LENGTHS = [[3, 5, 2, 8], [4, 1, 6, 2], [1, 1, 7, 3], [2, 2, 2, 5]]
OBJECTIVES: dict[str, dict[str, Any]] = {
    "popo": {"name": "popo"},
    "popo_entropy_over_all": {"name": "popo", "regularisers": {"entropy": {"scope": "all"}}},
    "popo_over_prompts": {"name": "popo", "loss": {"over": "prompts"}, "credit": {"weights": "sequence_softmax", "length_normalize": True}},
    "grpo": {"name": "grpo"},
    "grpo_kl_two_references": {
        "name": "grpo",
        "references": {"frozen": {"name": "frozen"}, "twin": {"name": "ema_twin"}},
        "regularisers": {"kl": {"coef": 0.1}, "kl_twin": {"name": "kl", "to": "twin", "coef": 0.2, "estimator": "k2"}},
        "loss_agg_mode": "seq-mean-token-mean",
    },
    "grpo_kl_in_the_reward": {
        "name": "grpo",
        "references": {"frozen": {"name": "frozen"}},
        "shapers": {"kl_reward": {"coef": 0.1}},
        "loss_agg_mode": "seq-mean-token-sum-norm",
    },
    **{name: {"name": name} for name in ("dr_grpo", "dapo", "gspo", "cispo", "sapo", "rloo", "reinforce_pp")},
    "ppo": {"name": "ppo"},
    "ppo_critic_of_its_own": {"name": "ppo", "regularisers": {"value": {"critic": "model"}}},
    "ppo_with_similarity": {
        "name": "ppo",
        "references": {"twin": {"name": "ema_twin"}},
        "regularisers": {"similarity": {"to": "twin", "predictor_hidden": 8}},
    },
}  # fmt: skip


def rollouts(exact: bool = True) -> list[Rollout]:
    return scripted_rollouts(REWARDS, LENGTHS, exact=exact)


def flat(gradients: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_do_not_depend_on_micro_batches_or_order(name: str, exact: bool) -> None:
    whole_metrics, whole = Bench.of(OBJECTIVES[name]).gradients(rollouts(exact))
    assert flat(whole).abs().max() > 1e-6
    for budget in (1, 12, 30):
        metrics, split = Bench.of(OBJECTIVES[name], max_tokens_per_microbatch=budget).gradients(rollouts(exact)[::-1])
        torch.testing.assert_close(flat(split), flat(whole), atol=1e-10, rtol=1e-10)
        for key in ("loss/total", *(k for k in whole_metrics if k.startswith(("loss/", "policy/", "popo/")))):
            assert metrics[key] == pytest.approx(whole_metrics[key], abs=1e-10)


@pytest.mark.parametrize("name", ["popo", "grpo", "ppo"])
def test_parameters_after_several_minibatches_and_iterations_do_not_depend_on_micro_batches(name: str) -> None:
    def after(budget: int) -> dict[str, Tensor]:
        bench = Bench.of(
            OBJECTIVES[name], max_tokens_per_microbatch=budget, num_minibatches=2, num_iterations=2, learning_rate=1e-2
        )
        bench.gradients(rollouts())
        assert bench.learner.version == 4
        return bench.parameters()

    start = flat(Bench.of(OBJECTIVES[name]).parameters())
    torch.testing.assert_close(flat(after(1)), flat(after(1000)), atol=1e-9, rtol=1e-7)
    assert (flat(after(1000)) - start).abs().max() > 1e-3


def test_a_global_noise_generator_would_be_seen() -> None:
    """The noise is on in these tests: another seed gives other gradients."""
    one = flat(Bench.of(OBJECTIVES["popo"]).gradients(rollouts(), seed=0)[1])
    other = flat(Bench.of(OBJECTIVES["popo"]).gradients(rollouts(), seed=1)[1])
    assert (one - other).abs().max() > 1e-7


Dense = Callable[[Bench, list[Rollout], Tensor, Tensor, Tensor], Tensor]


def dense_inputs(bench: Bench, scored: list[Rollout]) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs [B,T], entropy [B,T] and mask [B,T], row by row, from the policy's own forward."""
    width = max(len(r.completion_ids) for r in scored)
    logprobs, entropy, mask = [], [], []
    for r in scored:
        all_logprobs = torch.log_softmax(
            bench.learner.root.policy(input_ids=torch.tensor([r.prompt_ids + r.completion_ids])).logits[0], -1
        )
        here = all_logprobs[len(r.prompt_ids) - 1 : -1]
        pad = width - len(here)
        logprobs.append(torch.nn.functional.pad(here.gather(1, torch.tensor(r.completion_ids)[:, None])[:, 0], (0, pad)))
        entropy.append(torch.nn.functional.pad(-(here.exp() * here).sum(-1), (0, pad)))
        mask.append(torch.arange(width) < len(here))
    return torch.stack(logprobs), torch.stack(entropy), torch.stack(mask)


def sampled_logprobs(scored: list[Rollout], like: Tensor) -> Tensor:
    out = torch.zeros_like(like)
    for row, r in enumerate(scored):
        out[row, : len(r.logprobs)] = torch.tensor(r.logprobs, dtype=like.dtype)
    return out.detach()


def dense_popo(bench: Bench, scored: list[Rollout], logprobs: Tensor, entropy: Tensor, mask: Tensor) -> Tensor:
    """Weighted NLL over positives, entropy over positives; similarity off."""
    old = sampled_logprobs(scored, logprobs)
    total, tokens, entropies = torch.zeros((), dtype=torch.float64), 0, torch.zeros((), dtype=torch.float64)
    for prompt in range(4):
        rows = [i for i, r in enumerate(scored) if r.key.prompt == prompt and r.reward > 0]
        if not rows:
            continue
        means = torch.stack([old[i][mask[i]].mean() for i in rows])
        for weight, i in zip(torch.softmax(means, 0), rows, strict=True):
            total = total - weight * logprobs[i][mask[i]].sum()
            entropies = entropies + entropy[i][mask[i]].sum()
            tokens += int(mask[i].sum())
    return total / tokens - 0.01 * entropies / tokens


def dense_grpo(bench: Bench, scored: list[Rollout], logprobs: Tensor, entropy: Tensor, mask: Tensor) -> Tensor:
    """Clipped surrogate with group-relative advantages, averaged over tokens."""
    old = sampled_logprobs(scored, logprobs)
    rewards = torch.tensor([r.reward for r in scored], dtype=torch.float64).view(4, 4)
    advantage = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).view(-1, 1)
    ratio = (logprobs - old).exp()
    per_token = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return per_token[mask].sum() / mask.sum()


@pytest.mark.parametrize(
    ("objective", "dense"),
    [
        ({"name": "popo", "regularisers": {"similarity": None}}, dense_popo),
        ({"name": "grpo", "loss_agg_mode": "token-mean"}, dense_grpo),
    ],
    ids=["popo", "grpo"],
)
def test_loss_and_gradients_equal_a_dense_loss_written_plainly(objective: dict[str, Any], dense: Dense) -> None:
    bench, scored = Bench.of(objective, max_tokens_per_microbatch=20), rollouts()
    plain = dense(bench, scored, *dense_inputs(bench, scored))
    plain.backward()
    expected = {name: p.grad.clone() for name, p in bench.learner.root.named_parameters() if p.grad is not None}
    bench.learner.optimizer.zero_grad()
    metrics, found = bench.gradients(scored)
    assert metrics["loss/total"] == pytest.approx(float(plain.detach()), abs=1e-10)
    torch.testing.assert_close(flat(found), flat(expected), atol=1e-10, rtol=1e-9)


def test_nothing_forwards_a_negative_under_popos_defaults() -> None:
    bench = Bench.of({"name": "popo"})
    kept, dropped = bench.select(rollouts())
    assert {r.reward for r in kept} == {1.0} and not dropped
    batch, _ = bench.prepare(rollouts())
    assert all(r.reward > 0 for r in batch.rollouts)


def test_exact_rollouts_need_no_second_forward_and_stale_ones_get_one() -> None:
    for exact, forwards in ((True, 0), (False, 1)):
        bench = Bench.of({"name": "popo", "regularisers": {"similarity": None}})
        bench.gradients(rollouts(exact))
        assert (bench.preparer.forwards, bench.learner.forwards) == (forwards, 1)


def test_the_twin_is_forwarded_only_where_similarity_is_on() -> None:
    counts = {}
    for coef in (0.1, 0.0):
        bench = Bench.of({"name": "popo", "regularisers": {"similarity": {"coef": coef}}})
        bench.gradients(rollouts())
        counts[coef] = (bench.preparer.forwards, len(bench.objective.references))
    assert counts == {0.1: (1, 1), 0.0: (0, 0)}


def test_the_twin_follows_each_optimizer_step_in_float32_whatever_the_policys_dtype() -> None:
    bench = Bench.of({"name": "popo"}, dtype=torch.bfloat16, learning_rate=1e-2)
    twin = bench.objective.references["twin"].model  # type: ignore[attr-defined]
    before = {name: p.clone() for name, p in twin.named_parameters()}
    bench.gradients(rollouts())
    moved = dict(twin.named_parameters())
    assert all(p.dtype == torch.float32 for p in moved.values())
    for name, policy in bench.learner.root.policy.named_parameters():
        torch.testing.assert_close(moved[name], 0.995 * before[name] + 0.005 * policy.float())
    assert any((moved[name] != before[name]).any() for name in moved)


RANK_SCRIPT = """
import json, sys, time, torch
from rlvr_core.testing import scripted_rollouts
from rlvr_core.testing.bench import Bench
objectives, rewards, lengths, out, sabotage = *(json.loads(a) for a in sys.argv[1:4]), *sys.argv[4:6]
exec(sabotage)
found = {}
for name, objective in objectives.items():
    for exact in (True, False):
        bench = Bench.of(objective, max_tokens_per_microbatch=12, num_minibatches=2, num_iterations=2)
        metrics, gradients = bench.gradients(scripted_rollouts(rewards, lengths, exact=exact))
        found[f"{name} {exact}"] = (metrics, gradients, bench.parameters())
assert bench.learner.accelerator.num_processes == int(sys.argv[6])
if bench.learner.accelerator.is_main_process:
    torch.save(found, out)
bench.learner.accelerator.wait_for_everyone()
time.sleep(0.5)  # a rank that leaves at once may cut off the other's last exchange
"""


def compare_ranks(tmp_path: Path, objectives: Mapping[str, Any], sabotage: str = "") -> None:
    """Real processes over gloo; groups are spread over ranks, and one prompt has a single positive, so a rank runs dummies."""
    rewards, lengths = [*REWARDS, [0, 0, 1, 0]], [*LENGTHS, [3, 3, 8, 1]]
    script = tmp_path / "ranks.py"
    script.write_text(RANK_SCRIPT)
    results = {}
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.pt"
        arguments = [json.dumps(objectives), json.dumps(rewards), json.dumps(lengths), str(out), sabotage, str(ranks)]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        done = subprocess.run([*launcher, str(script), *arguments], capture_output=True, text=True, timeout=300)
        if done.returncode:  # no AssertionError: that is for what the ranks compute
            raise RuntimeError(f"{ranks} ranks ended with {done.returncode}:\n{done.stderr[-3000:]}")
        results[ranks] = torch.load(out)
    for name, (metrics, gradients, parameters) in results[1].items():
        other_metrics, other_gradients, other_parameters = results[2][name]
        torch.testing.assert_close(flat(other_gradients), flat(gradients), atol=1e-10, rtol=1e-9)
        torch.testing.assert_close(flat(other_parameters), flat(parameters), atol=1e-8, rtol=1e-6)
        for key in (k for k in metrics if k.startswith(("loss/", "policy/", "popo/"))):
            assert other_metrics[key] == pytest.approx(metrics[key], abs=1e-9), (name, key)


def test_two_ranks_give_the_gradients_of_one(tmp_path: Path) -> None:
    compare_ranks(tmp_path, OBJECTIVES)


# Mistakes planted on purpose: the tests above must see them.


def test_a_mean_of_means_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_micro_batch(name: str, term: Term, batch: MicroBatch, present: Tensor, denominators: Denominators) -> Tensor:
        rows = torch.arange(len(batch.mask))
        counts = terms.count(batch.mask, batch.chosen, batch.row_weight, rows, 1, float(len(rows)), {})
        local = Denominators(counts, denominators.loss_agg_mode, denominators.max_completion_length)
        return terms.reduce(name, term, batch, present, local)

    monkeypatch.setattr(learner, "reduce", by_micro_batch)
    with pytest.raises(AssertionError):
        test_gradients_do_not_depend_on_micro_batches_or_order("popo", True)


def test_noise_from_a_global_generator_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def global_noise(batch: Batch, rows: Sequence[int], *_: Any) -> Any:
        return lambda name, size, std: torch.randn(len(rows), size, dtype=torch.float64) * std

    monkeypatch.setattr(micro, "_keyed_noise", global_noise)
    with pytest.raises(AssertionError):
        test_gradients_do_not_depend_on_micro_batches_or_order("popo", True)


def test_a_missing_world_size_factor_would_be_seen(tmp_path: Path) -> None:
    sabotage = (
        "from rlvr_core.learner.learner import Learner; right = Learner._micro_loss; "
        "Learner._micro_loss = lambda self, *a: right(self, *a) / self.accelerator.num_processes"
    )
    with pytest.raises(AssertionError):
        compare_ranks(tmp_path, {"popo": OBJECTIVES["popo"]}, sabotage)


def test_gradient_checkpointing_recomputes_layers_and_changes_no_gradient() -> None:
    plain = flat(Bench.of({"name": "popo"}).gradients(rollouts())[1])
    bench = Bench.of({"name": "popo"})
    make_trainable(bench.learner.root.policy, gradient_checkpointing=True)
    calls = []
    bench.learner.root.policy.get_decoder().layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    recomputed = flat(bench.gradients(rollouts())[1])
    torch.testing.assert_close(recomputed, plain, atol=1e-10, rtol=1e-10)
    assert len(calls) == 2  # forward, and once more in backward


def test_tiny_policy_is_the_same_on_every_call() -> None:
    assert torch.equal(flat(dict(tiny_policy().named_parameters())), flat(dict(tiny_policy().named_parameters())))


def test_kl_to_the_twin_is_logged_from_the_forward_that_similarity_needs_anyway() -> None:
    bench = Bench.of({"name": "popo"}, learning_rate=1e-2)
    first, _ = bench.gradients(rollouts())
    batch = [replace(r, policy_version=1, exact=False) for r in rollouts()]
    second, _ = bench.gradients(batch)
    assert first["popo/kl_twin"] == pytest.approx(0.0, abs=1e-12) and second["popo/kl_twin"] > 1e-6
    for reference in ("ema_twin", "frozen"):
        bench = Bench.of({"name": "popo", "references": {"twin": {"name": reference}}})
        bench.gradients(rollouts())
        assert bench.preparer.forwards == 1
    assert (
        "popo/kl_twin"
        not in Bench.of({"name": "popo", "regularisers": {"similarity": {"monitor_kl": False}}}).gradients(rollouts())[0]
    )


@pytest.mark.parametrize("reference", ["ema_twin", "frozen"])
def test_a_reference_shares_what_the_optimizer_does_not_move(reference: str) -> None:
    policy = tiny_policy()
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_("mlp" in name)
    made = catalogue().get("reference", reference)
    part = made.build(made.options())
    twin = dict(part.build(policy).named_parameters())
    for name, parameter in policy.named_parameters():
        assert (twin[name] is parameter) == ("mlp" not in name)
    assert all("mlp" in name for name in part.state_dict()["parameters"])
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.5)
    part.follow(policy)
    again = made.build(made.options())
    copy = dict(again.build(policy).named_parameters())
    again.load_state_dict(part.state_dict())
    assert all(torch.equal(copy[name], p) for name, p in twin.items())


@pytest.mark.parametrize("name", ["popo", "grpo_kl_two_references", "ppo", "ppo_critic_of_its_own"])
def test_packed_rows_give_the_gradients_of_padded_ones(name: str) -> None:
    padded_metrics, padded = Bench.of(OBJECTIVES[name]).gradients(rollouts(exact=False))
    for budget in (12, 30, 1000):
        metrics, packed = Bench.of(OBJECTIVES[name], packing=True, max_tokens_per_microbatch=budget).gradients(
            rollouts(exact=False)
        )
        torch.testing.assert_close(flat(packed), flat(padded), atol=1e-9, rtol=1e-8)
        assert metrics["loss/total"] == pytest.approx(padded_metrics["loss/total"], abs=1e-9)
        assert metrics["learn/padding_share"] == 0.0 < padded_metrics["learn/padding_share"]


def test_packing_is_refused_where_rows_would_see_each_other() -> None:
    config = MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1)
    policy = MambaForCausalLM(config).double().eval()
    with pytest.raises(ModelError, match=r"learner.packing: rows put end to end see each other in this model \(MambaForCausalLM"):
        Bench.of({"name": "grpo"}, policy=policy, packing=True)
    assert not keeps_rows_apart(policy) and keeps_rows_apart(tiny_policy())


def test_the_plain_optimizer_update_is_the_fused_one() -> None:
    found = []
    for fused in (True, False):
        bench = Bench.of(OBJECTIVES["popo"], fused_optimizer=fused, learning_rate=1e-2, weight_decay=0.1)
        bench.gradients(rollouts())
        assert bench.learner.optimizer.defaults["fused"] is fused
        found.append(flat(bench.parameters()))
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_the_compiled_forward_gives_the_gradients_of_the_plain_one() -> None:
    plain = flat(Bench.of(OBJECTIVES["popo"]).gradients(rollouts())[1])
    bench = Bench.of(OBJECTIVES["popo"], compile=True, max_tokens_per_microbatch=30)
    assert bench.learner.root.state_dict().keys() == Bench.of(OBJECTIVES["popo"]).learner.root.state_dict().keys()
    torch.testing.assert_close(flat(bench.gradients(rollouts())[1]), plain, atol=1e-6, rtol=1e-5)
