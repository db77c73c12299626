"""Numbers of other implementations, through the one door to our arithmetic. tests/golden/README.md says how to read a case."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlvr_core.errors import DataError
from rlvr_core.evaluation.estimators import bootstrap, pass_at_k
from rlvr_core.testing.evaluate import evaluate

FOLDER = Path(__file__).parent / "golden"
CASES = {case["case"]: case for case in json.loads((FOLDER / "index.json").read_text())["cases"]}
Call = tuple[str, str, dict[str, Any], dict[str, Any]]
"""kind, name, options, settings."""

LEFT_OUT = {
    "policy_loss__trl_luspo_sequence": "LUSPO is none of ours",
    "policy_loss__trl_vespo": "VESPO is none of ours",
    "policy_loss__verl_clip_cov_all": "Clip-Cov is none of ours",
    "policy_loss__verl_dppo_tv": "DPPO is none of ours",
    "policy_loss__verl_geo_mean": "GMPO is none of ours",
    "policy_loss__verl_gpg": "GPG is none of ours",
    "policy_loss__verl_kl_cov": "KL-Cov is none of ours",
    "policy_loss__verl_reinforce": "a plain REINFORCE loss is none of ours: the clipped one has its gradient at ratio 1",
    "policy_loss__verl_agg_modes": "looked at in test_loss_agg_modes_equal_verls",
    "policy_loss__verl_agg_modes_global": "looked at in test_loss_agg_modes_equal_verls",
    "policy_loss__verl_vanilla_token_sum": "token-sum depends on the batch's size, so it is no loss_agg_mode here",
    "policy_loss__trl_grpo_empty_sequence": "TRL counts sequences without a token in the mean; verl and we do not",
    "advantages__verl_gpg": "GPG is none of ours",
    "advantages__verl_grpo_passk": "pass@k advantages are none of ours",
    "advantages__verl_opo": "OPO is none of ours",
    "rollout_correction__verl_reject_seq_mean_k1": "rejection by estimated KL is none of ours",
    "rollout_correction__verl_reject_token_k1": "rejection by estimated KL is none of ours",
    "rollout_correction__verl_tis_token_batch_normalised": "weights normalised over the batch are none of ours",
}


def tensors_of(case: Mapping[str, Any], prefix: str) -> dict[str, torch.Tensor]:
    stored = load_file(FOLDER / case["file"])
    return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}


def close(found: torch.Tensor, expected: torch.Tensor, case: Mapping[str, Any], what: str) -> None:
    tolerance = case["tolerance"]["float64"]
    torch.testing.assert_close(
        found.double(),
        expected.double(),
        rtol=tolerance["rtol"],
        atol=tolerance["atol"],
        msg=lambda m: f"{case['case']}: {what}: {m}",
    )


def names(*families: str) -> list[str]:
    return [name for name, case in CASES.items() if case["family"] in families and name not in LEFT_OUT]


# POPO


@pytest.mark.parametrize("name", names("popo_weights"))
def test_popo_weights_equal_the_authors(name: str) -> None:
    case, p = CASES[name], CASES[name]["params"]
    options = {"weights": p["weight_mode"], "length_normalize": p["length_normalize"], "temperature": p["temperature"]}
    tensors = tensors_of(case, "in.")
    found, _ = evaluate("credit", "bounded_is", options, tensors, group_size=p["num_generations"])
    close(found["weights"], tensors_of(case, "out.")["weights"], case, "weights")


@pytest.mark.parametrize("name", names("popo_loss"))
def test_popo_loss_and_gradients_equal_the_authors(name: str) -> None:
    case, p = CASES[name], CASES[name]["params"]
    scope = "chosen" if p.get("entropy_over") == "positives" else "all"
    regularisers: dict[str, Any] = {
        "similarity": {"coef": p["alpha"], "noise": p["feature_noise_std"]} if p["alpha"] else {"coef": 0.0},
        "entropy": {"coef": p["beta_entropy"], "scope": scope} if p["beta_entropy"] else {"coef": 0.0},
    }
    inputs, expected = tensors_of(case, "in."), tensors_of(case, "out.")
    found, gradients = evaluate("objective", "popo", {"regularisers": regularisers}, inputs, training=p["training"])
    close(found["loss"], expected["loss"], case, "loss")
    for ours, theirs in (("nll", "nll_loss"), ("similarity", "sim_loss"), ("entropy", "ent_loss")):
        if ours in found:
            close(found[ours], expected[theirs], case, ours)
    for input_name, gradient in gradients.items():
        close(gradient, expected[f"grad.{input_name}"], case, f"gradient of {input_name}")


@pytest.mark.parametrize("name", names("popo_predictor"))
def test_the_predictor_equals_the_authors(name: str) -> None:
    case, p = CASES[name], CASES[name]["params"]
    options = {"predictor_hidden": p["hidden_dim"], "predictor_layers": p["num_layers"]}
    found, gradients = evaluate("regulariser", "similarity", options, tensors_of(case, "in."))
    expected = tensors_of(case, "out.")
    close(found["output"], expected["output"], case, "output")
    for parameter, gradient in gradients.items():
        close(gradient, expected[f"grad.{parameter}"], case, f"gradient of {parameter}")


@pytest.mark.parametrize("name", names("popo_ema"))
def test_the_twin_equals_the_authors_target(name: str) -> None:
    case = CASES[name]
    found, _ = evaluate("reference", "ema_twin", {"decay": float(case["params"]["tau"])}, tensors_of(case, "in."))
    expected = tensors_of(case, "out.")
    assert found.keys() == {k for k in expected if not k.startswith(("grad", "metric"))}
    for parameter, value in found.items():
        close(value, expected[parameter], case, parameter)


@pytest.mark.parametrize("chunk", [3, 1024])
@pytest.mark.parametrize("name", names("selective_logprob_entropy"))
def test_chunked_logprobs_and_entropy_equal_trls(name: str, chunk: int) -> None:
    case = CASES[name]
    options = {"temperature": case["params"]["temperature"], "chunk": chunk}
    found, gradients = evaluate("policy", "logprobs", options, tensors_of(case, "in."))
    expected = tensors_of(case, "out.")
    for key, value in found.items():
        close(value, expected[key], case, key)
    for key, value in gradients.items():
        close(value, expected[f"grad.{key}"], case, f"gradient of {key}")


# Losses of GRPO's family and PPO's


def loss_call(case: Mapping[str, Any]) -> Call:
    """How a policy_loss case is said in our words."""
    p, name = case["params"], case["case"]
    if name.split("__")[1].startswith("trl"):
        return _trl_loss(p)
    if name.split("__")[1].startswith("openrlhf"):
        kind = "gspo" if p["policy_loss_type"] == "gspo" else "clipped"
        options = {"epsilon_low": p["clip_eps_low"], "epsilon_high": p["clip_eps_high"]}
        if p["dual_clip"] and kind == "clipped":
            options["dual_clip"] = p["dual_clip"]
        return (
            "loss",
            kind,
            options,
            {"loss_agg_mode": "token-mean" if p["aggregation"] == "token mean" else "seq-mean-token-mean"},
        )
    return _verl_loss(p)


def _trl_loss(p: Mapping[str, Any]) -> Call:
    settings = {
        "bnpo": {"loss_agg_mode": "token-mean"},
        "dapo": {"loss_agg_mode": "token-mean", "counts": {"tokens": p.get("num_items_in_batch")}},
        "cispo": {"loss_agg_mode": "token-mean", "counts": {"tokens": p.get("num_items_in_batch")}},
        "dr_grpo": {"loss_agg_mode": "seq-mean-token-sum-norm", "max_completion_length": p.get("max_completion_length")},
        "grpo": {"loss_agg_mode": "seq-mean-token-mean"},
        "sapo": {"loss_agg_mode": "seq-mean-token-mean"},
    }[p["loss_type"]]
    if p["loss_type"] == "cispo":
        return "loss", "cispo", {"ratio_max": p["epsilon_high"]}, settings
    if p["loss_type"] == "sapo":
        return "loss", "sapo", {"tau_positive": p["sapo_temperature_pos"], "tau_negative": p["sapo_temperature_neg"]}, settings
    options: dict[str, Any] = {"epsilon_low": p["epsilon_low"], "epsilon_high": p["epsilon_high"]}
    if p["importance_sampling_level"] == "sequence":
        return "loss", "gspo", options, settings
    options["log_ratio_clamp"] = None
    if "delta" in p:
        options["dual_clip"] = p["delta"]
    changes: dict[str, Any] = {"loss": options, "loss_agg_mode": settings["loss_agg_mode"]}
    if p["beta"]:
        changes["references"] = {"frozen": {"name": "frozen"}}
        changes["regularisers"] = {"kl": {"coef": p["beta"], "times_ratio": p["use_bias_correction_kl"]}}
    if p["entropy_coef"]:
        changes["regularisers"] = {"entropy": {"coef": p["entropy_coef"]}}
    return "objective", "grpo", changes, {k: v for k, v in settings.items() if k != "loss_agg_mode"}


def _verl_loss(p: Mapping[str, Any]) -> Call:
    settings: dict[str, Any] = {"loss_agg_mode": p["loss_agg_mode"]}
    if "batch_num_tokens" in p:
        settings["counts"] = {"tokens": p["batch_num_tokens"] / p["dp_size"]}  # verl multiplies by the number of ranks
    if p["loss_mode"] == "vanilla":
        options = {"epsilon_low": p["clip_ratio_low"], "epsilon_high": p["clip_ratio_high"], "dual_clip": p["clip_ratio_c"]}
        return "loss", "clipped", options, settings
    if p["loss_mode"] == "gspo":
        return (
            "loss",
            "gspo",
            {"epsilon_low": p["clip_ratio_low"], "epsilon_high": p["clip_ratio_high"], "per_token": True},
            settings,
        )
    if p["loss_mode"] == "cispo":
        return "loss", "cispo", {"ratio_max": 1 + p["clip_ratio_high"], "ratio_min": 1 - p["clip_ratio_low"]}, settings
    return "loss", "sapo", {"tau_positive": p["tau_pos"], "tau_negative": p["tau_neg"]}, settings


def corrected(inputs: dict[str, torch.Tensor], case: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Importance weights by our own correction, where a case has the sampler's log-probs."""
    if case["params"].get("correction") is None:
        return inputs
    low, high = case["params"]["thresholds"]
    kind = "masked" if case["params"]["correction"] == "icepop" else "truncated"
    found, _ = evaluate("correction", kind, {"clip_low": low, "clip": high}, inputs)
    return {**inputs, **found}


@pytest.mark.parametrize("name", names("policy_loss"))
def test_policy_losses_and_gradients_equal_their_sources(name: str) -> None:
    case = CASES[name]
    kind, component, options, settings = loss_call(case)
    inputs, expected = corrected(tensors_of(case, "in."), case), tensors_of(case, "out.")
    found, gradients = evaluate(kind, component, options, inputs, **settings)
    close(found["loss"], expected["loss"], case, "loss")
    for input_name, gradient in gradients.items():
        close(gradient, expected[f"grad.{input_name}"], case, f"gradient of {input_name}")


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"])
def test_loss_agg_modes_equal_verls(mode: str) -> None:
    """A loss whose per-token values are given: the clipped surrogate at ratio 1 with minus these as advantages."""
    case = CASES["policy_loss__verl_agg_modes"]
    inputs, expected = tensors_of(case, "in."), tensors_of(case, "out.")
    logprobs = torch.zeros_like(inputs["loss_mat"])
    tensors = {"per_token_logps": logprobs, "completion_mask": inputs["completion_mask"], "advantages": -inputs["loss_mat"]}
    found, gradients = evaluate("loss", "clipped", {}, tensors, loss_agg_mode=mode)
    close(found["loss"], expected[f"loss.{mode}"], case, mode)
    close(gradients["per_token_logps"], expected[f"grad.loss_mat.{mode}"] * inputs["loss_mat"], case, f"gradient of {mode}")


# Credits


def credit_call(case: Mapping[str, Any]) -> Call | None:
    """How an advantages case is said in our words."""
    p, source = case["params"], case["case"].split("__")[1]
    around = {"group_size": p["num_generations"]} if "num_generations" in p else {}
    if source.startswith("trl"):
        return "credit", "group_relative", {"scale_rewards": p["scale_rewards"]}, around
    if source.startswith("openrlhf"):
        return {
            "group_norm": ("credit", "group_relative", {"epsilon": 1e-9}, around),
            "dr_grpo": ("credit", "group_relative", {"scale_rewards": "none"}, around),
            "rloo": ("credit", "leave_one_out", {}, around),
            "reinforce_baseline": ("credit", "reinforce_pp", {"baseline": "group", "ddof": 0}, around),
        }[p["estimator"]]
    relative = {"scale_rewards": "group" if p["norm_by_std"] else "none", "group_of_one": "reward"}
    return {
        "grpo": ("credit", "group_relative", {**relative, **({"epsilon": 1e-6} if p["norm_by_std"] else {})}, around),
        "rloo": ("credit", "leave_one_out", {"group_of_one": "reward"}, around),
        "rloo_vectorized": ("credit", "leave_one_out", {}, around),
        "reinforce_plus_plus": ("credit", "reinforce_pp", {"gamma": p["gamma"]}, around),
        "reinforce_plus_plus_baseline": ("credit", "reinforce_pp", {"baseline": "group"}, around),
    }[p["estimator"]]


@pytest.mark.parametrize("name", names("advantages"))
def test_advantages_equal_their_sources(name: str) -> None:
    case = CASES[name]
    call = credit_call(case)
    assert call is not None
    kind, component, options, settings = call
    inputs, expected = tensors_of(case, "in."), tensors_of(case, "out.")
    if "rewards_per_func" in inputs:
        weights = torch.tensor(case["params"]["reward_weights"], dtype=torch.float64)
        inputs = {"rewards": inputs["rewards_per_func"] @ weights}
    if options.get("baseline") == "group" and "token_level_rewards" in inputs:  # verl's baseline takes the sequence's reward
        inputs["rewards"] = inputs.pop("token_level_rewards").sum(-1)
    found, _ = evaluate(kind, component, options, inputs, **settings)
    advantage = found["advantages"]
    theirs = expected["advantages"]
    mask = inputs["completion_mask"].bool() if "completion_mask" in inputs else torch.ones(theirs.shape, dtype=torch.bool)
    if theirs.dim() == 2:
        ours = advantage if advantage.dim() == 2 else advantage[:, None].expand_as(theirs)
        close(ours[mask], theirs[mask], case, "advantages")
    else:
        close(advantage, theirs, case, "advantages")


# KL, corrections, PPO


def kl_calls(case: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Estimate's name in the case -> our options."""
    if case["case"].endswith("openrlhf_kl_all"):
        return {k: {"estimator": k, "clamp": 10.0} for k in ("k1", "k2", "k3")}
    return {
        "k1": {"estimator": "k1"},
        "k2": {"estimator": "k2"},
        "k3": {"estimator": "k3", "clamp": 10.0},
        "k1+": {"estimator": "k1", "straight_through": True},
        "k3+": {"estimator": "k3", "clamp": 10.0, "straight_through": True},
    }


@pytest.mark.parametrize("name", ["kl__openrlhf_kl_all", "kl__verl_kl_all"])
def test_kl_estimates_and_gradients_equal_their_sources(name: str) -> None:
    case = CASES[name]
    inputs, expected = tensors_of(case, "in."), tensors_of(case, "out.")
    for estimate, options in kl_calls(case).items():
        sums = {"counts": {"tokens": 1.0}}
        found, gradients = evaluate("regulariser", "kl", {"coef": 1.0, **options}, inputs, **sums)
        close(found["loss"], expected[estimate].double().sum(), case, estimate)
        close(gradients["per_token_logps"], expected[f"grad.{estimate}"], case, f"gradient of {estimate}")


@pytest.mark.parametrize("name", ["kl__trl_k3_plain", "kl__trl_k3_bias_corrected"])
def test_kl_in_the_loss_equals_trls(name: str) -> None:
    case = CASES[name]
    inputs, expected = tensors_of(case, "in."), tensors_of(case, "out.")
    options = {"coef": 1.0, "times_ratio": case["params"]["use_bias_correction_kl"]}
    found, gradients = evaluate("regulariser", "kl", options, inputs)
    close(found["loss"], expected["loss"], case, "loss")
    close(gradients["per_token_logps"], expected["grad.per_token_logps"], case, "gradient")


def correction_call(case: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    p = case["params"]
    if "mode" in p:  # TRL
        level, how = p["mode"].split("_")
        options = {"level": level, "clip": p["clip_max"]}
        return ("masked", {**options, "clip_low": p["clip_min"] or 0.0}) if how == "mask" else ("truncated", options)
    threshold = p["rollout_is_threshold"]
    if isinstance(threshold, str):
        low, high = (float(part) for part in threshold.split("_"))
        return "masked", {"level": p["rollout_is"], "clip_low": low, "clip": high}
    return "truncated", {"level": p["rollout_is"], "clip": threshold}


@pytest.mark.parametrize("name", names("rollout_correction"))
def test_corrections_equal_their_sources(name: str) -> None:
    case = CASES[name]
    kind, options = correction_call(case)
    inputs, expected = tensors_of(case, "in."), tensors_of(case, "out.")
    found, _ = evaluate("correction", kind, options, inputs)
    mask = inputs["completion_mask"].bool()
    theirs = expected["is_weights"].expand(mask.shape)
    close(found["is_weights"][mask], theirs[mask], case, "importance weights at valid tokens")


@pytest.mark.parametrize("name", names("ppo"))
def test_ppo_equals_its_sources(name: str) -> None:
    case, p = CASES[name], CASES[name]["params"]
    inputs, expected = tensors_of(case, "in."), tensors_of(case, "out.")
    if "gamma" in p:
        verl = "verl" in name
        options = {"gamma": p["gamma"], "lam": p["lam"], "whiten": verl, "interior": "skip" if verl else "count"}
        found, _ = evaluate("credit", "gae", options, inputs)
        mask = inputs["completion_mask"].bool()
        for key in ("advantages", "returns"):
            close(found[key][mask], expected[key][mask], case, key)
        return
    options = {"coef": 1.0, "clip": p["cliprange_value"]}
    mode = p.get("loss_agg_mode", "token-mean")
    found, gradients = evaluate("regulariser", "value", options, inputs, loss_agg_mode=mode)
    close(found["loss"], expected["loss"], case, "loss")
    close(gradients["values"], expected["grad.values"], case, "gradient")


@pytest.mark.parametrize("name", ["pass_at_k__table_small", "pass_at_k__table_humaneval"])
def test_pass_at_k_equals_exact_fractions(name: str) -> None:
    case = CASES[name]
    inputs, expected = tensors_of(case, "in."), tensors_of(case, "out.")
    rows = zip(*(inputs[key].tolist() for key in ("n", "c", "k")), strict=True)
    close(torch.tensor([pass_at_k(*row) for row in rows], dtype=torch.float64), expected["pass_at_k"], case, "pass@k")


def test_pass_at_k_over_problems_is_the_mean_of_each() -> None:
    case = CASES["pass_at_k__mean_over_problems"]
    inputs, expected = tensors_of(case, "in."), tensors_of(case, "out.")
    rows = zip(inputs["n"].tolist(), inputs["c"].tolist(), strict=True)
    values = [pass_at_k(n, c, case["params"]["k"]) for n, c in rows]
    close(torch.tensor(bootstrap([values])[0].mean, dtype=torch.float64), expected["mean_pass_at_k"], case, "mean")


def test_pass_at_k_beyond_the_samples_is_refused() -> None:
    inputs = tensors_of(CASES["pass_at_k__k_larger_than_n"], "in.")
    for row in zip(*(inputs[key].tolist() for key in ("n", "c", "k")), strict=True):
        with pytest.raises(DataError, match=f"k is {row[2]}, but only {row[0]} samples"):
            pass_at_k(*row)


def test_every_case_is_looked_at_or_left_out_for_a_reason() -> None:
    looked_at = {"popo_weights", "popo_loss", "popo_predictor", "popo_ema", "popo_end_to_end", "policy_loss", "advantages", "kl", "ppo",
                 "rollout_correction", "selective_logprob_entropy", "pass_at_k"}  # fmt: skip
    assert {case["family"] for case in CASES.values()} == looked_at
    assert set(LEFT_OUT) <= set(CASES)
