"""The policy on prompts that PPO leaves out, every few steps: rewards and an independent score.

The rewards rise as long as PPO runs; what they stand for rises and then falls (Gao et al. 2023,
arXiv:2210.10760). The same prompts and seeds are used at every step, so that steps are compared
with little noise. The best step may be kept, and PPO may stop, by the independent score alone.

In the run directory: evaluations.json, one entry per evaluation; one that is there is not made
again. best-000004.safetensors, the weights of the best step so far, with the step in the name. The
file is written before evaluations.json has the step, and that of the best step before is removed
afterwards. A stage that is killed at any moment therefore has the weights of the best step there.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_core.batching.collective import barrier, gathered
from rlhf_core.config.ppo_evaluation import PPOEvaluation
from rlhf_core.data.render import reply_text
from rlhf_core.errors import BadInput
from rlhf_core.judging.functions import Scorer, call, conversation, with_messages
from rlhf_core.named_functions import REWARDS, load_function
from rlhf_core.ppo.metrics import experience_metrics
from rlhf_core.ppo.rollout import Rollout, roll_out
from rlhf_core.ppo.state import LoopState
from rlhf_core.ppo.trainer import ActorWeights, Trainer
from rlhf_core.ranks import is_rank_zero
from rlhf_core.rundir import Output, write_atomically

FILE = "evaluations.json"
WEIGHTS = "best-*.safetensors"
DRAW = 2**20  # number of the draw that the seeds are of, beyond any round of dynamic sampling


@dataclass(frozen=True)
class Evaluation:
    """The policy after a step. independent: None without a scorer; kl: nats per response."""

    step: int
    score: float
    independent: float | None
    kl: float
    response_tokens: float

    def metrics(self) -> dict[str, float]:
        """Return the values by declared name."""
        values = {
            "ppo/eval_score": self.score,
            "ppo/eval_kl_per_response": self.kl,
            "ppo/eval_response_tokens": self.response_tokens,
        }
        own = {} if self.independent is None else {"ppo/eval_independent": self.independent}
        return values | own


@dataclass(frozen=True)
class Evaluator:
    """The evaluations of one PPO stage."""

    config: PPOEvaluation
    scorer: Scorer | None
    folder: Path

    def start(self, trainer: Trainer, state: LoopState) -> None:
        """Evaluate before the first step."""
        self._evaluated(trainer, state, 0)

    def after(self, trainer: Trainer, state: LoopState, step: int) -> dict[str, float]:
        """Evaluate if it is due after this step; return the metrics, none without an evaluation.

        state: of the loop before the next step.
        """
        if step % self.config.every and step != trainer.config.steps:
            return {}
        return self._evaluated(trainer, state, step).metrics()

    def ends(self, step: int) -> bool:
        """Return True when PPO has to stop after this step, by `patience`; equal on all ranks."""
        done, patience = self._read(until=step), self.config.patience
        if patience is None or len(done) <= patience:
            return False
        best = _best(done)
        return all(_worse_but_rewarded(found, best) for found in done[-patience:])

    def kept(self, trainer: Trainer, last: int) -> tuple[dict[str, Tensor] | None, Output]:
        """Return the weights to give in place of the last step's, and the account of the choice.

        last: the step after which PPO ended. The weights are None for the last step's own.
        """
        done = self._read(until=last)
        replies = len(trainer.left_out) * trainer.config.group_size
        found = done[-1] if self.config.keep == "last" else _best(done[1:])
        print(_choice(found, done[-1], self.config.keep))
        weights = None if found.step == last else self._load(found.step)
        return weights, Output(
            metrics=found.metrics() | {"ppo/kept_step": found.step},
            counts=dict.fromkeys(found.metrics(), replies),
            files={"evaluations": FILE},
        )

    def _evaluated(self, trainer: Trainer, state: LoopState, step: int) -> Evaluation:
        there = next((found for found in self._read() if found.step == step), None)
        if there:  # a resumed stage comes by again, with the same weights
            return there
        found = self._evaluate(trainer, state, step)
        done = [*self._read(), found]
        is_best = bool(step) and self.config.keep == "best" and _best(done[1:]) is found
        if is_best:
            self._save(trainer, step)
        if is_rank_zero():
            text = json.dumps([asdict(one) for one in done], indent=1)
            write_atomically(self.folder / FILE, text + "\n")
            if is_best:
                self._remove_others(step)
        barrier()
        return found

    def _evaluate(self, trainer: Trainer, state: LoopState, step: int) -> Evaluation:
        if trainer.config.rollout_block > 1:
            trainer.sync()  # the sampler may be some steps behind
        asked = [prompt for prompt in trainer.left_out for _ in range(trainer.config.group_size)]
        eos_id = trainer.tokenizer.eos_token_id
        with trainer.timeline.span("generate", None, "sampler"):
            drawn = roll_out(
                trainer.sampler, {0: asked}, seed=trainer.seed, eos_id=eos_id, draw_number=DRAW
            )
        metrics = experience_metrics(trainer.score(drawn[0], state))
        return Evaluation(
            step,
            metrics["ppo/score_mean"],
            gathered(self._independent(trainer, drawn[0]))[0],
            metrics["ppo/kl_per_response"],
            metrics["ppo/response_tokens"],
        )

    def _independent(self, trainer: Trainer, rollout: Rollout) -> float | None:
        """Return the mean independent score, on rank 0 alone."""
        if self.scorer is None or not is_rank_zero():
            return None
        dialogues = [record["prompt"] for record in rollout.records]
        replies = [reply_text(trainer.tokenizer, s.response) for s in rollout.sequences]
        scorer = with_messages(self.scorer, dialogues, lists=2)
        scores = call(scorer, "scorer of PPO", [conversation(d) for d in dialogues], replies)
        return sum(scores) / len(scores)

    def _weights_file(self, step: int) -> Path:
        return self.folder / WEIGHTS.replace("*", f"{step:06d}")

    def _save(self, trainer: Trainer, step: int) -> None:
        weights = {
            name: tensor.detach().cpu().clone()
            for name, tensor in ActorWeights(trainer.models.actor)
            if is_rank_zero()
        }
        if is_rank_zero():
            file = self._weights_file(step)
            temporary = file.with_name(f".{file.name}")
            save_file(weights, temporary)
            temporary.rename(file)

    def _load(self, step: int) -> dict[str, Tensor]:
        """Return the weights of a step. Raises BadInput where its file is missing."""
        file = self._weights_file(step)
        if not file.exists():
            there = sorted(found.name for found in self.folder.glob(WEIGHTS)) or "no such file"
            raise BadInput(
                f"{file} is missing: {FILE} names step {step} as the best one, and the folder has"
                f" {there}. Remove the folder {self.folder} to train again."
            )
        return load_file(file)

    def _remove_others(self, step: int) -> None:
        """Remove the weights of every other step, also those that a killed stage left behind."""
        kept = self._weights_file(step)
        for file in [*self.folder.glob(WEIGHTS), *self.folder.glob(f".{WEIGHTS}")]:
            if file != kept:
                file.unlink()

    def _read(self, *, until: float = math.inf) -> list[Evaluation]:
        """Return the evaluations up to a step; a killed stage may have made later ones."""
        file = self.folder / FILE
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        return [Evaluation(**values) for values in found if values["step"] <= until]


def build(config: PPOEvaluation | None, folder: Path) -> Evaluator | None:
    """Return the evaluator that the recipe asks for, if any.

    Raises BadInput for a scorer that is not there.
    """
    if config is None:
        return None
    scorer = load_function(config.scorer, "scorer of PPO", REWARDS) if config.scorer else None
    return Evaluator(config, scorer, folder)


def _best(done: list[Evaluation]) -> Evaluation:
    """Return the evaluation with the best independent score, the first of equal ones."""
    return max(done, key=lambda one: -math.inf if one.independent is None else one.independent)


def _worse_but_rewarded(found: Evaluation, best: Evaluation) -> bool:
    if found.independent is None or best.independent is None:
        return False
    return found.independent < best.independent and found.score > best.score


def _choice(kept: Evaluation, last: Evaluation, keep: str) -> str:
    """Return which step is kept and why, as a line for the stage's log."""
    if keep == "last":
        return f"ppo: the policy of step {kept.step} is kept, the last one"
    return (
        f"ppo: the policy of step {kept.step} is kept: its independent score {kept.independent:.4g}"
        f" is the best; step {last.step}, the last one, has {last.independent:.4g}, rewarded"
        f" {last.score:.4g} in place of {kept.score:.4g}"
    )
