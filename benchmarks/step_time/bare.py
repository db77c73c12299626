"""A bare loop on the workload, nothing but torch and the model: python bare.py FOLDER OUT DEVICE all|positives STEPS

Decoding drops ended rows from the cache once they are an eighth of it. Learning runs over micro-batches sorted by length, of at most 4,096
padded tokens (16,384 on a GPU), and takes the head in checkpointed chunks of 1,024 completion tokens. ``positives`` is the weighted
negative log-likelihood of right completions alone, with no twin and no entropy: less than POPO computes. Weights are float32; on a GPU
forwards run under bfloat16 autocast, one context around a whole decoding, so that weights are cast once for it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import workload
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedTokenizerFast

CHUNK = 1024
Row = tuple[list[int], list[int], list[float]]
"""Prompt ids, completion ids, log-probs."""


def computing(model):
    """bfloat16 autocast on a GPU."""
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.device.type == "cuda")


@torch.no_grad()
def decode(model, prompts: list[list[int]], limit: int) -> list[Row]:
    """A completion for each prompt."""
    width, device = max(map(len, prompts)), model.device
    ids = torch.tensor([[workload.PAD] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    found: list[Row] = [(p, [], []) for p in prompts]
    alive, ended = list(range(len(prompts))), torch.zeros(len(prompts), dtype=torch.bool, device=device)
    cache, positions = DynamicCache(config=model.config), (mask.cumsum(-1) - 1).clamp(min=0)
    for step in range(limit):
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                       logits_to_keep=1).logits[:, -1]  # fmt: skip
        logprobs = torch.log_softmax(logits.float(), -1)
        ids = torch.multinomial(logprobs.exp(), 1)
        chosen, over = logprobs.gather(-1, ids)[:, 0].tolist(), ended.tolist()
        for row, token in enumerate(ids[:, 0].tolist()):
            if not over[row]:
                found[alive[row]][1].append(token)
                found[alive[row]][2].append(chosen[row])
        ended |= ids[:, 0] == workload.END
        if ended.all() or step + 1 == limit:
            break
        if int(ended.sum()) * 8 >= len(ended):
            keep = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            ids, mask, positions, ended = ids[keep], mask[keep], positions[keep], ended[keep]
            alive = [alive[i] for i in keep.tolist()]
        positions, mask = positions[:, -1:] + 1, torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return found


def micro_batches(rows: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """Rows of like length together."""
    found: list[list[int]] = []
    for row in sorted(rows, key=lambda r: -lengths[r]):
        if found and lengths[found[-1][0]] * (len(found[-1]) + 1) <= budget:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def logprobs_of(model, rows: list[Row]) -> torch.Tensor:
    """Log-probs of all completion tokens, end to end."""
    width = max(len(p) + len(c) for p, c, _ in rows)
    ids = torch.tensor([p + c + [workload.PAD] * (width - len(p) - len(c)) for p, c, _ in rows], device=model.device)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    before = torch.cat([hidden[i, len(p) - 1 : len(p) + len(c) - 1] for i, (p, c, _) in enumerate(rows)])
    tokens = torch.tensor([t for _, c, _ in rows for t in c], device=model.device)

    def some(h: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(model.lm_head(h).float(), -1).gather(-1, t[:, None])[:, 0]

    return torch.cat(
        [checkpoint(some, h, t, use_reentrant=False) for h, t in zip(before.split(CHUNK), tokens.split(CHUNK), strict=True)]
    )


def learn(model, optimizer, rows: list[Row], positives: bool, tokenizer, group: int) -> list[int]:
    """One optimizer step; the rows that it was taken on."""
    device = model.device
    reward = torch.tensor([workload.reward(tokenizer.decode(c, skip_special_tokens=True)) for _, c, _ in rows])
    groups = reward.view(-1, group)
    advantage = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).view(-1)
    used = [i for i in range(len(rows)) if reward[i] > 0] if positives else list(range(len(rows)))
    weight = torch.ones(len(rows))
    for g in range(len(groups)):
        own = [i for i in used if i // group == g]
        if own and positives:
            weight[own] = torch.softmax(torch.tensor([sum(rows[i][2]) / len(rows[i][2]) for i in own]), 0)
    total = sum(len(rows[i][1]) for i in used)
    for some in micro_batches(used, [len(p) + len(c) for p, c, _ in rows], 16384 if device.type == "cuda" else 4096):
        with computing(model):
            now = logprobs_of(model, [rows[i] for i in some])
        spread = torch.cat([(weight if positives else advantage)[i].expand(len(rows[i][1])) for i in some]).to(device)
        if positives:
            loss = -(spread * now).sum() / total
        else:
            ratio = (now - torch.tensor([x for i in some for x in rows[i][2]], device=device)).exp()
            loss = -torch.minimum(ratio * spread, ratio.clamp(0.8, 1.2) * spread).sum() / total
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return used


def main(folder: Path, out: Path, device: str, what: str, steps: int) -> None:
    """Time each step."""
    work = workload.read(folder)
    model = AutoModelForCausalLM.from_pretrained(folder / "model").to(device).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=workload.LEARNING_RATE, weight_decay=0.0, fused=True if device != "cpu" else None
    )
    prompts = [tokenizer(text)["input_ids"] for text in json.loads((folder / "prompts.json").read_text())]
    torch.manual_seed(0)
    seconds, rollout, drawn, learned = [], [], [], []
    for step in range(steps):
        start = time.perf_counter()
        some = prompts[step * work.prompts : (step + 1) * work.prompts]
        with computing(model):
            rows = decode(model, [p for p in some for _ in range(work.group)], work.limit)
        rollout.append(time.perf_counter() - start)
        used = learn(model, optimizer, rows, what == "positives", tokenizer, work.group)
        workload.wait(device)
        seconds.append(time.perf_counter() - start)
        drawn.append([(len(p), len(c)) for p, c, _ in rows])
        learned.append([drawn[-1][i] for i in used])
    workload.report(out, f"bare {what}", device, seconds, rollout, drawn, learned)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
