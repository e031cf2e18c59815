"""The reward model on the policy's own replies: pairs of fresh replies are scored as PPO goes and,
where somebody labels them, held against the labels. PPO moves the policy to where the reward model
has seen no comparison; how far its accuracy has fallen there says when to collect new ones (Gao et
al. 2023, arXiv:2210.10760).

One file a check in the run directory's onpolicy/ (rlhf_core/judging/onpolicy_pairs.py); one that is
there is not made again.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence, subset
from rlhf_core.batching.collective import gathered
from rlhf_core.config import RewardCheck
from rlhf_core.data.render import render_prompt
from rlhf_core.data.splits import load_split
from rlhf_core.evidence.items import item_id
from rlhf_core.judging import judge as judging
from rlhf_core.judging.functions import JudgeFunction
from rlhf_core.judging.onpolicy_pairs import FOLDER, Pair, check_output, read_checks
from rlhf_core.ranks import is_rank_zero
from rlhf_core.reward.scoring import score_sequences
from rlhf_core.rundir import Output, RunDir, StageSpec, write_atomically
from rlhf_core.sampling.draw import draw
from rlhf_core.seeds import onpolicy_seeds

if TYPE_CHECKING:
    from rlhf_core.ppo.stage import Trainer

ALL = "onpolicy.jsonl"


@dataclass(frozen=True)
class Checker:
    """Makes the checks of one PPO stage; what they found lies in its folder."""

    config: RewardCheck
    ask: JudgeFunction | None
    rows: list[dict]
    folder: Path

    def start(self, trainer: "Trainer") -> None:
        """The check before the first step, of the SFT model's replies."""
        self._make(trainer, 0)

    def after(self, trainer: "Trainer", step: int, steps: int) -> dict[str, float]:
        """The metrics of a step after which a check is due, else none."""
        if step % self.config.every and step != steps:
            return {}
        self._make(trainer, step)
        return check_output(read_checks(self.folder), step).metrics if is_rank_zero() else {}

    def output(self, steps: int, path: Path) -> Output:
        """What the last check found, and the file of all pairs."""
        pairs = [pair for found in read_checks(self.folder).values() for pair in found]
        (path / ALL).write_text(
            "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        )
        return check_output(read_checks(self.folder), steps).model_copy(
            update={"files": {"onpolicy_pairs": ALL}}
        )

    def _make(self, trainer: "Trainer", step: int) -> None:
        file = self.folder / f"step-{step:06d}.jsonl"
        if gathered(file.exists())[0]:  # a resumed stage comes by again, with the same replies
            return
        if trainer.config.max_rollout_age:
            trainer.sync()  # the sampler may be some steps behind
        pairs = answered(trainer, self.rows, step)
        if not is_rank_zero():  # all ranks answer and score, one asks for labels
            return
        pairs = labelled(pairs, self.ask)
        self.folder.mkdir(exist_ok=True)
        write_atomically(
            file, "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        )


def build(config: RewardCheck | None, spec: StageSpec, run: RunDir) -> Checker | None:
    """The checker that the recipe asks for, if any. Raises BadInput for a judge that is not there."""
    if config is None:
        return None
    ask = judging.load_judge(config.judge) if config.judge else None
    rows = subset(load_split(spec.inputs["prompts_train"].path), config.pairs, seed=spec.seed)
    return Checker(config, ask and partial(_confirmed, ask), rows, run.path / FOLDER)


def _confirmed(
    ask: JudgeFunction, prompts: list[str], ours: list[str], theirs: list[str]
) -> list[float | None]:
    return [verdict.outcome for verdict in judging.compare(ask, prompts, ours, theirs)]


def answered(trainer: "Trainer", rows: list[dict], step: int) -> list[Pair]:
    """Two replies of the present policy to each prompt with the reward model's scores; equal
    replies are left out.
    """
    tokenizer, prompts = (
        trainer.tokenizer,
        [render_prompt(trainer.tokenizer, row["prompt"]) for row in rows],
    )
    seeds = onpolicy_seeds(trainer.seed, step, 2 * len(prompts))
    twice = [prompt for prompt in prompts for _ in "ab"]
    samples = draw(trainer.sampler, twice, seeds=seeds, eos_id=tokenizer.eos_token_id)
    sequences = [
        Sequence(prompt, sample.tokens) for prompt, sample in zip(twice, samples, strict=True)
    ]
    scores = _scores(trainer, sequences, tokenizer)
    texts = [tokenizer.decode(sample.tokens, skip_special_tokens=True) for sample in samples]
    pairs = []
    for place, row in enumerate(rows):
        a, b = 2 * place, 2 * place + 1
        if texts[a] != texts[b]:
            prompt = judging.conversation(row["prompt"])
            about = {
                "id": item_id(str(step), prompt, texts[a], texts[b]),
                "step": step,
                "prompt": prompt,
            }
            pairs.append(
                about
                | {
                    "reply_a": texts[a],
                    "reply_b": texts[b],
                    "score_a": scores[a],
                    "score_b": scores[b],
                }
            )
    return pairs


def _scores(
    trainer: "Trainer", sequences: list[Sequence], tokenizer: PreTrainedTokenizerBase
) -> list[float]:
    budget, forwards = trainer.config.micro_batch_tokens, (trainer.reward, *trainer.further_rewards)
    members = [
        score_sequences(forward, sequences, tokenizer.pad_token_id, budget) for forward in forwards
    ]
    return torch.stack(members).mean(0).tolist()


def labelled(pairs: list[Pair], ask: JudgeFunction | None) -> list[Pair]:
    """The pairs with their labels; without somebody to ask, none."""
    if ask is None or not pairs:
        return [pair | {"label": None} for pair in pairs]
    labels = ask(*([pair[name] for pair in pairs] for name in ("prompt", "reply_a", "reply_b")))
    return [pair | {"label": label} for pair, label in zip(pairs, labels, strict=True)]
