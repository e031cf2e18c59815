"""The reward model on the policy's own replies, checked as PPO goes.

Pairs of fresh replies are scored and, where somebody labels them, compared with the labels. PPO
moves the policy to where the reward model has seen no comparison. How far its accuracy has fallen
there says when to collect new ones (Gao et al. 2023, arXiv:2210.10760).

One file per check in the run directory's onpolicy/ (rlhf_core/judging/onpolicy_pairs.py); one that
is there is not made again.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from rlhf_core.batching.batch import Sequence, subset
from rlhf_core.batching.collective import gathered
from rlhf_core.config import RewardCheck
from rlhf_core.data.render import render_prompt, reply_text
from rlhf_core.data.splits import load_split
from rlhf_core.data.transcripts import Messages
from rlhf_core.evidence.items import item_id
from rlhf_core.judging.functions import conversation
from rlhf_core.judging.judge import load_judge
from rlhf_core.judging.judge_metrics import token_output
from rlhf_core.judging.onpolicy_pairs import FOLDER, Pair, check_output, read_checks
from rlhf_core.judging.verdicts import AskJudge, JudgeVerdict, compare
from rlhf_core.ppo.trainer import Trainer
from rlhf_core.ranks import is_rank_zero
from rlhf_core.reward.scoring import member_scores
from rlhf_core.rundir import Output, RunDir, StageSpec, merged, write_atomically
from rlhf_core.sampling.draw import draw
from rlhf_core.seeds import onpolicy_seeds

ALL = "onpolicy.jsonl"


@dataclass(frozen=True)
class Checker:
    """The checks of one PPO stage, and the folder with their results."""

    config: RewardCheck
    judge: AskJudge | None  # None: nobody labels
    rows: list[dict]
    folder: Path

    def start(self, trainer: Trainer) -> None:
        """Make the check before the first step, of the SFT model's replies."""
        self._make(trainer, 0)

    def after(self, trainer: Trainer, step: int, steps: int) -> dict[str, float]:
        """Make the check that is due after this step; return its metrics, none without a check."""
        if step % self.config.every and step != steps:
            return {}
        self._make(trainer, step)
        return self._found(step).metrics if is_rank_zero() else {}

    def output(self, steps: int, path: Path) -> Output:
        """Return the last check's results, and write the file of all pairs."""
        pairs = [pair for found in read_checks(self.folder).values() for pair in found]
        (path / ALL).write_text(
            "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8"
        )
        return self._found(steps).model_copy(update={"files": {"onpolicy_pairs": ALL}})

    def _found(self, step: int) -> Output:
        """Return the check at `step`, and the judge's tokens up to it."""
        checks = read_checks(self.folder)
        pairs = [pair for made, found in checks.items() if made <= step for pair in found]
        stated = [(p, c) for pair in pairs for p, c in pair.get("judge_tokens", [])]
        judge = self.config.judge
        used = token_output(stated, judge, "ppo/onpolicy_") if judge else Output()
        return merged([check_output(checks, step), used])

    def _make(self, trainer: Trainer, step: int) -> None:
        file = self.folder / f"step-{step:06d}.jsonl"
        if gathered(file.exists())[0]:  # a resumed stage comes by again, with the same replies
            return
        if trainer.config.rollout_block > 1:
            trainer.sync()  # the sampler may be some steps behind
        pairs = answered(trainer, self.rows, step)
        if not is_rank_zero():  # all ranks answer and score, one asks for labels
            return
        pairs = labelled(pairs, self.judge)
        self.folder.mkdir(exist_ok=True)
        write_atomically(
            file, "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        )


def build(config: RewardCheck | None, spec: StageSpec, run: RunDir) -> Checker | None:
    """Return the checker that the recipe asks for, if any. Raises BadInput for a missing judge."""
    if config is None:
        return None
    judge = load_judge(config.judge, run.path) if config.judge else None
    rows = subset(load_split(spec.inputs["prompts_train"].path), config.pairs, seed=spec.seed)
    return Checker(config, judge, rows, run.path / FOLDER)


def answered(trainer: Trainer, rows: list[dict], step: int) -> list[Pair]:
    """Return two replies of the present policy to each prompt, with the reward model's scores.

    Equal replies are left out.
    """
    tokenizer = trainer.tokenizer
    twice = [render_prompt(tokenizer, row["prompt"]) for row in rows for _ in "ab"]
    seeds = onpolicy_seeds(trainer.seed, step, len(twice))
    with trainer.timeline.span("generate", None, "sampler"):
        samples = draw(trainer.sampler, twice, seeds=seeds, eos_id=tokenizer.eos_token_id)
    sequences = [
        Sequence(prompt, sample.tokens) for prompt, sample in zip(twice, samples, strict=True)
    ]
    prompts = [row["prompt"] for row in rows for _ in "ab"]
    scores = _scores(trainer, prompts, sequences, [sample.ended for sample in samples])
    texts = [reply_text(tokenizer, sample.tokens) for sample in samples]
    return [
        _pair(step, row, texts[place : place + 2], scores[place : place + 2])
        for place, row in zip(range(0, len(twice), 2), rows, strict=True)
        if texts[place] != texts[place + 1]
    ]


def _pair(step: int, row: dict, texts: list[str], scores: list[float]) -> Pair:
    prompt = conversation(row["prompt"])
    return {
        "id": item_id(str(step), prompt, *texts),
        "step": step,
        "prompt": prompt,
        "reply_a": texts[0],
        "reply_b": texts[1],
        "score_a": scores[0],
        "score_b": scores[1],
    }


def _scores(
    trainer: Trainer, prompts: list[Messages], sequences: list[Sequence], ended: list[bool]
) -> list[float]:
    """Return the reward model's score of each sequence, the mean over an ensemble."""
    reading, pad_id = trainer.models.reading, trainer.tokenizer.pad_token_id
    if reading is not None:
        sequences = reading.sequences(prompts, [s.response for s in sequences], ended)
        pad_id = reading.pad_id
    budget, packing = trainer.config.micro_batch_tokens, trainer.config.packing
    scores_MN = member_scores(trainer.models.rewards, sequences, pad_id, budget, packing=packing)
    return scores_MN.mean(0).tolist()


def labelled(pairs: list[Pair], judge: AskJudge | None) -> list[Pair]:
    """Return the pairs with their labels; without a judge, with None.

    The judge is asked in both orders, and contradictions are ties.
    """
    if judge is None or not pairs:
        return [pair | {"label": None} for pair in pairs]
    texts = ([pair[name] for pair in pairs] for name in ("prompt", "reply_a", "reply_b"))
    verdicts = compare(judge, *texts)
    return [pair | _label(verdict) for pair, verdict in zip(pairs, verdicts, strict=True)]


def _label(verdict: JudgeVerdict) -> Pair:
    """Return what a pair gets from its verdict; a judge that is no endpoint states no tokens."""
    answers = verdict.answers
    reasons = [answer.reason for answer in answers if answer.reason is not None]
    tokens = [answer.tokens for answer in answers if answer.tokens is not None]
    label: Pair = {"label": verdict.outcome}
    label |= {"judge_reasons": reasons} if reasons else {}
    return label | ({"judge_tokens": tokens} if tokens else {})
