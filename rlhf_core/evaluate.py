"""Evaluation on held-out prompts: policy, SFT model and champion answer the same prompts with the same seeds."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batch import Sequence, collate, microbatches, subset
from rlhf_core.config import Evaluate, Sampling
from rlhf_core.data.render import render_prompt
from rlhf_core.data.splits import load_split
from rlhf_core.errors import BadInput
from rlhf_core.figures import score_figure
from rlhf_core.losses import masked_sum, token_logprobs
from rlhf_core.models import inference, load_policy, load_scalar, load_tokenizer, require_same_tokenizer
from rlhf_core.reward import score
from rlhf_core.rundir import Output, RunDir, StageSpec
from rlhf_core.sampler import Sample, Sampler
from rlhf_core.sft import heldout_loss, load_sequences
from rlhf_core.stats import bootstrap_mean, win_rate

Scorer = Callable[[list[str], list[str]], list[float]]
STEPS = 5  # answer, score, KL, held-out loss, report


@dataclass(frozen=True)
class Replies:
    """One model's answers, one entry a prompt."""

    sequences: list[Sequence]
    texts: list[str]
    ended: list[bool]
    score_N: Tensor

    @property
    def length(self) -> float:
        """Mean response tokens, EOS included."""
        return sum(len(s.response) for s in self.sequences) / len(self.sequences)


def run(spec: StageSpec, run: RunDir) -> Output:
    """Compare the policy with the SFT model (and the champion, when one is given) and write the sample table."""
    config, dtype = Evaluate.model_validate(spec.config["evaluate"]), spec.config["dtype"]
    paths = {name: item.path for name, item in spec.inputs.items()}
    tokenizer = load_tokenizer(paths["policy"])
    rows = subset(load_split(paths["prompts_heldout"]), config.max_prompts, seed=spec.seed)
    prompts = [render_prompt(tokenizer, row["prompt"]) for row in rows]
    names = [name for name in ("policy", "sft", "champion") if name in paths]
    for name in (*names[1:], "reward"):
        require_same_tokenizer(paths["policy"], paths[name], name)
    samples = _answer([paths[name] for name in names], prompts, config.sampling, tokenizer, spec.seed, dtype)
    run.log(1, STEPS, {})
    reward = inference(load_scalar(paths["reward"]), dtype=dtype)
    replies = {}
    for name, answered in zip(names, samples, strict=True):
        sequences = [Sequence(p, s.tokens) for p, s in zip(prompts, answered, strict=True)]
        texts = [tokenizer.decode(s.tokens, skip_special_tokens=True) for s in answered]
        scores_N = score(reward, sequences, tokenizer.pad_token_id, config.micro_batch_tokens)
        replies[name] = Replies(sequences, texts, [s.ended for s in answered], scores_N)
    run.log(2, STEPS, {})
    policy, sft = replies["policy"], replies["sft"]
    metrics, intervals = _paired(policy, sft)
    if "champion" in replies:
        rate, interval = win_rate(policy.score_N, replies["champion"].score_N)
        metrics |= _with_bounds("eval/win_rate_vs_champion", rate, interval)
        intervals["eval/win_rate_vs_champion"] = interval
    metrics |= _divergence_and_tax(spec, run, config, tokenizer, policy)
    texts = [row["prompt"][-1]["content"] for row in rows]
    utilities = {}
    if config.independent_scorer:
        scorer = load_scorer(config.independent_scorer)
        utilities = {name: _scores(scorer, texts, replies[name].texts) for name in ("policy", "sft")}
        gain_N = utilities["policy"] - utilities["sft"]
        lower, upper = bootstrap_mean(gain_N, seed=spec.seed)
        metrics |= {f"eval/independent_{name}": float(utilities[name].mean()) for name in utilities}
        metrics |= _with_bounds("eval/independent_gain", float(gain_N.mean()), (lower, upper))
        intervals["eval/independent_gain"] = (lower, upper)
    _write_samples(run.path / "samples.table.json", texts, replies, utilities, config.samples)
    score_figure(policy.score_N, sft.score_N, run.path / "scores.png")
    run.log(STEPS, STEPS, {})
    counts = dict.fromkeys(metrics, len(prompts))
    files = {"samples": "samples.table.json", "scores": "scores.png"}
    return Output(metrics=metrics, counts=counts, intervals=intervals, files=files)


def repetition(tokens: list[int]) -> float:
    """1 - distinct 3-grams / 3-grams of one reply; 0 for fewer than three tokens (Li et al. 2016, distinct-n)."""
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def load_scorer(name: str) -> Scorer:
    """The function behind 'module:function'. Raises BadInput when it cannot be imported."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"scorer {name!r} cannot be imported ({error}); expected 'module:function'") from None


def _answer(
    models: list[Path], prompts: list[list[int]], sampling: Sampling, tokenizer: PreTrainedTokenizerBase, seed: int,
    dtype: str,
) -> list[list[Sample]]:  # fmt: skip
    """Every model's samples; models of one architecture share one engine, whose weights are replaced."""
    seeds = [seed * 1_000_003 + i for i in range(len(prompts))]
    longest = max(map(len, prompts))
    sampler, loaded, result = None, None, []
    for path in models:
        architecture = _architecture(path)
        if architecture != loaded:
            if sampler:
                sampler.close()
            sampler, loaded = Sampler(path, sampling, max_prompt_tokens=longest, dtype=dtype), architecture
        else:
            sampler.sync(load_policy(path).model.state_dict().items())
        result.append(sampler.generate(prompts, seeds=seeds, eos_id=tokenizer.eos_token_id))
    return result


def _architecture(path: Path) -> dict:
    config = json.loads((path / "config.json").read_text())
    return {key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")}


def _paired(policy: Replies, sft: Replies) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    n = len(policy.sequences)
    rate, interval = win_rate(policy.score_N, sft.score_N)
    repeated = {k: sum(repetition(s.response) for s in r.sequences) / n for k, r in (("policy", policy), ("sft", sft))}
    metrics = {
        "eval/prompts": n,
        "eval/score_policy": float(policy.score_N.mean()),
        "eval/score_sft": float(sft.score_N.mean()),
        "eval/score_gain": float((policy.score_N - sft.score_N).mean()),
        "eval/length_policy": policy.length,
        "eval/length_sft": sft.length,
        "eval/length_ratio": policy.length / sft.length,
        "eval/repetition_policy": repeated["policy"],
        "eval/repetition_sft": repeated["sft"],
        "eval/repetition_increase": repeated["policy"] - repeated["sft"],
        "eval/no_eos_policy": 1 - sum(policy.ended) / n,
        "eval/no_eos_sft": 1 - sum(sft.ended) / n,
    } | _with_bounds("eval/win_rate", rate, interval)
    return metrics, {"eval/win_rate": interval, "eval/win_rate_lower": interval}


def _divergence_and_tax(
    spec: StageSpec, run: RunDir, config: Evaluate, tokenizer: PreTrainedTokenizerBase, policy: Replies
) -> dict[str, float]:
    """KL of the policy from the SFT model on the policy's replies, and both models' held-out SFT loss."""
    pad_id, budget = tokenizer.pad_token_id, config.micro_batch_tokens
    heldout = load_sequences(tokenizer, spec.inputs["demonstrations_heldout"].path, config.max_heldout, spec.seed)
    forward = {k: inference(load_policy(spec.inputs[k].path), dtype=spec.config["dtype"]) for k in ("policy", "sft")}
    total = 0.0
    for rows in microbatches([s.size for s in policy.sequences], budget):
        batch = collate([policy.sequences[i] for i in rows], pad_id)
        ours_BR, theirs_BR = (token_logprobs(forward[k](batch), batch.response_ids_BR) for k in ("policy", "sft"))
        total += float(masked_sum(ours_BR - theirs_BR, batch.response_mask_BR))
    run.log(3, STEPS, {})
    losses = {k: heldout_loss(forward[k], heldout, pad_id, budget) for k in forward}
    run.log(4, STEPS, {})
    return {
        "eval/kl_per_response": total / len(policy.sequences),
        "eval/heldout_loss_policy": losses["policy"],
        "eval/heldout_loss_sft": losses["sft"],
        "eval/alignment_tax": losses["policy"] - losses["sft"],
    }


def _scores(scorer: Scorer, prompts: list[str], replies: list[str]) -> Tensor:
    values = scorer(prompts, replies)
    if len(values) != len(replies):
        raise BadInput(f"the independent scorer gave {len(values)} scores for {len(replies)} replies")
    return torch.tensor(values, dtype=torch.float64)


def _with_bounds(name: str, value: float, interval: tuple[float, float]) -> dict[str, float]:
    return {name: value, f"{name}_lower": interval[0], f"{name}_upper": interval[1]}


def _write_samples(
    path: Path, prompts: list[str], replies: dict[str, Replies], utilities: dict[str, Tensor], count: int
) -> None:
    columns = {"prompt": prompts}
    for name, answered in replies.items():
        columns[f"{name}_reply"] = answered.texts
        columns[f"{name}_score"] = [round(value, 4) for value in answered.score_N.tolist()]
    for name, values in utilities.items():
        columns[f"{name}_independent"] = [round(value, 4) for value in values.tolist()]
    data = [list(row) for row in zip(*columns.values(), strict=True)][:count]
    path.write_text(json.dumps({"columns": list(columns), "data": data}, ensure_ascii=False, indent=1))
