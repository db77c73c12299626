"""POPO on a tiny Qwen2 with given weights: the authors' trainer and ours, from rewards to parameter gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_golden import CASES, FOLDER, tensors_of
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlvr_core.learner import micro
from rlvr_core.records import Batch, Example, Rollout, RowKey
from rlvr_core.testing.bench import Bench

WHOLE = [name for name, case in CASES.items() if case["family"] == "popo_end_to_end" and "microbatch" not in name]


def weights_of(case: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    stored = load_file(FOLDER / case["params"].get("weights_file", case["file"]))
    start = f"in.{prefix}."
    return {name.removeprefix(start): value for name, value in stored.items() if name.startswith(start)}


def policy_of(case: Mapping[str, Any]) -> Qwen2ForCausalLM:
    sizes = {k: v for k, v in case["params"]["model"].items() if k not in ("arch", "rope_theta")}
    rope = {"rope_type": "default", "rope_theta": case["params"]["model"]["rope_theta"]}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, rope_parameters=rope, eos_token_id=None, pad_token_id=None, bos_token_id=None))
    load_into(model, weights_of(case, "policy"))
    return model.double().eval()


def load_into(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    missing = model.load_state_dict({k: v.double() if v.is_floating_point() else v for k, v in weights.items()}, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"lm_head.weight"}  # tied


def rollouts_of(case: Mapping[str, Any]) -> list[Rollout]:
    """Rows of the case; their log-probs are unknown, so they are stale and go through prepare."""
    t, size = tensors_of(case, "in."), case["params"]["num_generations"]
    rollouts = []
    for row in range(len(t["rewards"])):
        group = row // size
        ids = tuple(t["completion_ids"][row][t["completion_mask"][row].bool()].tolist())
        rollouts.append(
            Rollout(
                key=RowKey(1, group, row % size),
                example=Example(str(group), "", ""),
                prompt_ids=tuple(t["prompt_ids"][row][t["prompt_mask"][row].bool()].tolist()),
                completion_ids=ids,
                logprobs=(0.0,) * len(ids),
                finish_reason="stop",
                exact=False,
                policy_version=0,
                reward=float(t["rewards"][row]),
                group_rewards=tuple(float(r) for r in t["rewards"][group * size : (group + 1) * size]),
            )
        )
    return rollouts


def bench_of(case: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, budget: int) -> Bench:
    p = case["params"]
    similarity = {"coef": p["alpha"], "noise": p["feature_noise_std"]}
    scope = "chosen" if p["entropy_over"] == "positives only" else "all"
    predictor = weights_of(case, "predictor")
    similarity |= {"predictor_hidden": predictor["net.0.weight"].shape[0], "predictor_layers": p["predictor_layers"]}
    objective = {
        "name": "popo",
        "correction": None,
        "regularisers": {"similarity": similarity, "entropy": {"coef": p["beta_entropy"], "scope": scope}},
    }
    bench = Bench.of(objective, policy=policy_of(case), max_tokens_per_microbatch=budget)
    load_into(bench.objective.references["twin"].model, weights_of(case, "target"))  # type: ignore[attr-defined]
    load_into(bench.learner.root.parts["similarity"], predictor)
    noise = tensors_of(case, "in.").get("feature_noise")

    def given(batch: Batch, rows: Sequence[int], *_: Any) -> Any:
        index = [batch.rollouts[row].key.prompt * p["num_generations"] + batch.rollouts[row].key.sample for row in rows]
        return None if noise is None else lambda name, size, std: noise[index] * std

    monkeypatch.setattr(micro, "_keyed_noise", given)
    return bench


def compare(bench: Bench, case: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    metrics, gradients = bench.gradients(rollouts_of(case))
    loose = {"rtol": 5e-5, "atol": 2e-7}  # the model library computes norms and rotary embeddings in float32
    tolerance = case["tolerance"]["float32"] if "float32" in case["case"] else loose
    torch.testing.assert_close(torch.tensor(metrics["loss/total"], dtype=torch.float64), expected["loss"].double(), **tolerance)
    compared = 0
    for key, theirs in expected.items():
        if key.startswith("grad."):
            name = key.removeprefix("grad.")
            ours = gradients[
                f"parts.similarity.{name.removeprefix('predictor.')}" if name.startswith("predictor.") else f"policy.{name}"
            ]
            torch.testing.assert_close(ours.double(), theirs.double(), **tolerance, msg=lambda m, n=name: f"{n}: {m}")
            compared += 1
    assert compared >= 12


@pytest.mark.parametrize("budget", [1, 30, 10_000])
@pytest.mark.parametrize("name", WHOLE)
def test_popo_equals_the_authors_trainer_however_it_is_split(name: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    compare(bench_of(case, monkeypatch, budget), case, tensors_of(case, "out."))


def test_micro_batches_equal_the_whole_batch_where_the_authors_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs averages means of micro-batches: another loss than the whole batch's. Ours is the whole batch's."""
    split, whole = CASES["popo_end_to_end__base_authors_microbatch_x2"], CASES["popo_end_to_end__base"]
    theirs, right = tensors_of(split, "out.")["loss"], tensors_of(whole, "out.")["loss"]
    assert abs(float(theirs - right)) > 1e-3
    compare(bench_of(split, monkeypatch, 30), split, tensors_of(whole, "out."))
