"""Make candidates for labelling: fresh, training and live pairs, all scored.

Only training prompts and training pairs are read, and kept live replies to prompts that are not
held out: a held-out item that people label would be trained on.
"""

import json
import math
from pathlib import Path

from torch import Tensor

from rlhf_core.batching.batch import Sequence, subset
from rlhf_core.config.stage_configs import LabelPairsStageConfig
from rlhf_core.data.render import render_prompt, reply_text
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.judging.functions import conversation
from rlhf_core.judging.judge import load_judge
from rlhf_core.judging.verdicts import compare
from rlhf_core.labels.candidates import LIVE, people, preference
from rlhf_core.modeling.ensemble import load_members
from rlhf_core.modeling.reading import own_reading
from rlhf_core.modeling.requirements import context_of
from rlhf_core.ranks import is_rank_zero
from rlhf_core.reward.scoring import pair_sequences, score_sequences
from rlhf_core.rundir import Output, RunDir, StageSpec, write_atomically
from rlhf_core.sampling.base import Sample
from rlhf_core.sampling.draw import draw
from rlhf_core.sampling.factory import open_sampler
from rlhf_core.seeds import reply_seeds

FILE = "candidates.jsonl"
SpecOfPairs = StageSpec[LabelPairsStageConfig]


def run(spec: SpecOfPairs, run: RunDir) -> Output:
    """Write candidates.jsonl, as rlhf_core/labels/candidates.py describes it."""
    config = spec.config
    rows: list[dict] = []
    if config.prompts:
        prompts = load_split(spec.inputs["prompts_train"].path)
        rows += _fresh(spec, subset(prompts, config.prompts, seed=spec.seed))
    if config.comparisons:
        pairs = load_split(spec.inputs["comparisons_train"].path)
        rows += _training(spec, subset(pairs, config.comparisons, seed=spec.seed))
    if LIVE in spec.inputs:
        rows += _live(spec)
    rows = _judged(spec, run.path, rows)
    if is_rank_zero():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(run.path / FILE, lines)
    return Output(files={"candidates": FILE})


def _fresh(spec: SpecOfPairs, prompts: list[dict]) -> list[dict]:
    """Return two replies of the policy to each prompt, equal ones left out."""
    tokenizer = load_tokenizer(spec.inputs["policy"].path)
    twice = [render_prompt(tokenizer, row["prompt"]) for row in prompts for _ in "ab"]
    samples = _drawn(spec, twice, 0)
    texts = [reply_text(tokenizer, sample.tokens) for sample in samples]
    kept = [k for k in range(len(prompts)) if texts[2 * k] != texts[2 * k + 1]]
    found = [
        {
            "kind": "fresh",
            "prompt": prompts[k]["prompt"],
            "reply_a": texts[2 * k],
            "reply_b": texts[2 * k + 1],
            "preferences": {},
        }
        for k in kept
    ]
    if "reward" not in spec.inputs or not found:
        return found
    places = [2 * k + side for k in kept for side in (0, 1)]
    sequences = _as_read(
        spec,
        [prompts[k]["prompt"] for k in kept for _ in "ab"],
        [twice[place] for place in places],
        [samples[place] for place in places],
    )
    return _scored(spec, found, sequences)


def _drawn(spec: SpecOfPairs, rendered: list[list[int]], step: int) -> list[Sample]:
    """Return a reply of the policy to each prompt. step: another one gives other replies."""
    path = spec.inputs["policy"].path
    sampler = open_sampler(
        path,
        spec.config.evaluate.sampling,
        max_prompt_tokens=max(map(len, rendered)),
        dtype=spec.config.dtype,
    )
    seeds = reply_seeds(spec.seed, step, len(rendered))
    samples = draw(sampler, rendered, seeds=seeds, eos_id=load_tokenizer(path).eos_token_id)
    sampler.close()
    return samples


def _live(spec: SpecOfPairs) -> list[dict]:
    """Return each kept live reply with a new one of the policy, equal ones left out.

    The reward model reads both as it reads comparisons, which is what a label makes of them.
    """
    kept, rendered = _fitting(spec, spec.inputs[LIVE].path)
    if not kept:
        return []
    tokenizer = load_tokenizer(spec.inputs["policy"].path)
    texts = [reply_text(tokenizer, sample.tokens) for sample in _drawn(spec, rendered, 1)]
    found = [
        {
            "kind": "live",
            "prompt": row["prompt"],
            "reply_a": row["reply"],
            "reply_b": text,
            "preferences": {},
            "live": {"trace_id": row["trace_id"], "version": row["version"]},
        }
        for row, text in zip(kept, texts, strict=True)
        if text.strip() and text.strip() != row["reply"].strip()
    ]
    if "reward" not in spec.inputs or not found:
        return found
    pairs = [
        {"prompt": row["prompt"], "chosen": row["reply_a"], "rejected": row["reply_b"]}
        for row in found
    ]
    reader = load_tokenizer(spec.inputs["reward"].path)
    return _scored(spec, found, pair_sequences(reader, pairs))


def _fitting(spec: SpecOfPairs, file: Path) -> tuple[list[dict], list[list[int]]]:
    """Return the rows whose prompts the policy can answer, and these prompts as token ids.

    Clients have written them: the chat template may refuse one, and one may be too long.
    """
    path = spec.inputs["policy"].path
    tokenizer, context = load_tokenizer(path), context_of(path)
    most = context - spec.config.evaluate.sampling.max_new_tokens if context else math.inf
    kept, rendered, left_out = [], [], 0
    for row in map(json.loads, file.open(encoding="utf-8")):
        try:
            tokens = render_prompt(tokenizer, row["prompt"])
        except BadInput:
            tokens = []
        if not tokens or len(tokens) > most:
            left_out += 1
            continue
        kept.append(row)
        rendered.append(tokens)
    if left_out:
        print(f"{left_out} live prompts are left out: too long, or refused by the chat template")
    return kept, rendered


def _as_read(
    spec: SpecOfPairs, prompts: list, rendered: list[list[int]], samples: list[Sample]
) -> list[Sequence]:
    """Return replies as the reward model reads them: as text where it has another tokenizer."""
    policy = load_tokenizer(spec.inputs["policy"].path)
    reading = own_reading(spec.inputs["reward"].path, policy)
    if reading is None:
        pairs = zip(rendered, samples, strict=True)
        return [Sequence(prompt, sample.tokens) for prompt, sample in pairs]
    tokens, ended = [s.tokens for s in samples], [s.ended for s in samples]
    return reading.sequences(prompts, tokens, ended)


def _training(spec: SpecOfPairs, pairs: list[dict]) -> list[dict]:
    """Return training comparisons with what people prefer of them."""
    found = [
        {
            "kind": "training",
            "prompt": row["prompt"],
            "reply_a": row["chosen"],
            "reply_b": row["rejected"],
            "preferences": people(row),
        }
        for row in pairs
    ]
    if "reward" not in spec.inputs:
        return found
    tokenizer = load_tokenizer(spec.inputs["reward"].path)
    return _scored(spec, found, pair_sequences(tokenizer, pairs))


def _scored(spec: SpecOfPairs, rows: list[dict], sequences: list[Sequence]) -> list[dict]:
    """Return the rows with the margin of the reward model, and each member's preference.

    sequences: those of reply a and reply b in turn.
    """
    path, config, evaluate = spec.inputs["reward"].path, spec.config, spec.config.evaluate
    pad_id = load_tokenizer(path).pad_token_id
    margins: list[Tensor] = []
    budget, packing = evaluate.micro_batch_tokens, evaluate.packing
    for forward in load_members(
        path,
        dtype=config.dtype,
        frozen=evaluate.frozen,
        weights=config.frozen_dtype,
        packing=packing,
    ):
        scores_N = score_sequences(forward, sequences, pad_id, budget, packing=packing)
        margins.append(scores_N[0::2] - scores_N[1::2])
    scored = []
    for place, row in enumerate(rows):
        by_member = [float(margins_N[place]) for margins_N in margins]
        preferences = {f"reward_{n}": preference(m) for n, m in enumerate(by_member, start=1)}
        scored.append(
            row
            | {
                "margin": sum(by_member) / len(by_member),
                "preferences": row["preferences"] | preferences,
            }
        )
    return scored


def _judged(spec: SpecOfPairs, folder: Path, rows: list[dict]) -> list[dict]:
    """Return the rows with the judge's verdict on the fresh ones, where there is a judge."""
    judge = spec.config.evaluate.judge
    asked = [row for row in rows if row["kind"] == "fresh"]
    if judge is None or not asked or not is_rank_zero():
        return rows
    texts = [conversation(row["prompt"]) for row in asked]
    replies = ([row[name] for row in asked] for name in ("reply_a", "reply_b"))
    for row, verdict in zip(
        asked, compare(load_judge(judge, folder), texts, *replies), strict=True
    ):
        if verdict.outcome is not None:
            row["preferences"]["judge"] = verdict.outcome
    return rows
