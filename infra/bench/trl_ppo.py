"""TRL's PPOTrainer as a measured process: `trl_ppo.py FOLDER OPTIONS`; runs in its own environment.

OPTIONS is JSON: kind of replies and shape. The trainer's loop is TRL's own. Replies get given
lengths after they are sampled: sampling goes on to the longest reply of the rows that are generated
together, as it does when rows end by themselves, and the end of turn and padding are written behind
each row's own length. The phases are told apart by calls that the loop makes once per step.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from shapes import SHAPES, Shape, longest_reply, prompts, reply_lengths
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer
from turns import PipedTurns, Turns

STEPS = 1000  # more than are ever measured
ORDINARY = 6  # a token that is neither padding nor the end of turn


class Phases(TrainerCallback):
    """The times at which a step's phases end; reports each step and waits for the next turn."""

    def __init__(self, turns: Turns):
        self._turns, self._began, self._ends = turns, time.monotonic(), {}
        self.reply_tokens: list[int] = []  # of each reply of the step

    def ends(self, phase: str) -> None:
        """Note that a phase ends now."""
        self._ends[phase] = time.monotonic()

    def on_step_end(self, *args: Any, **options: Any) -> None:
        """Report the step that is done."""
        now, ends = time.monotonic(), self._ends
        self._turns.done(
            generate=ends["generate"] - self._began,
            score=ends["score"] - ends["generate"],
            update=now - ends["score"],
            reply_tokens=sum(self.reply_tokens) / len(self.reply_tokens),
        )
        self.reply_tokens.clear()
        self._began = time.monotonic()


def observe(phases: Phases) -> None:
    """Note the end of generation, and that of scoring: advantages are whitened once, at its end."""
    for name, phase in (("batch_generation", "generate"), ("masked_whiten", "score")):
        setattr(ppo_trainer, name, _then(getattr(ppo_trainer, name), phases, phase))


def _then(call: Callable, phases: Phases, phase: str) -> Callable:
    def called(*args: Any, **options: Any) -> Any:
        result = call(*args, **options)
        phases.ends(phase)
        return result

    return called


def force_lengths(shape: Shape, kind: str, turns: Turns, phases: Phases, eos_id: int) -> None:
    """Give the replies of each step their lengths, part by part as they are generated."""
    generate, count, done = ppo_trainer.generate, prompts(shape, kind), 0

    def with_lengths(backbone: Any, queries: Any, pad_id: int, config: Any) -> Any:
        nonlocal done
        own = reply_lengths(shape, kind, warm=turns.taken == 0)[done : done + len(queries)]
        done = (done + len(queries)) % count
        config.max_new_tokens = max(own)
        ids, logits = generate(backbone, queries, pad_id, config)
        replies = ids[:, queries.shape[1] :]
        replies[(replies == pad_id) | (replies == eos_id)] = ORDINARY
        for reply, length in zip(replies, own, strict=True):
            reply[length - 1], reply[length:] = eos_id, pad_id
        phases.reply_tokens += (replies != pad_id).sum(1).tolist()
        return ids, logits

    ppo_trainer.generate = with_lengths


def trainer_of(folder: Path, shape: Shape, options: dict, phases: Phases, out: str) -> PPOTrainer:
    """Return the trainer, with four models of their own and equal work."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    queries = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))["prompts"]
    count = prompts(shape, options["kind"])
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        for _ in range(2)
    )
    reward, critic = (
        AutoModelForSequenceClassification.from_pretrained(folder / "reward", dtype=torch.float32)
        for _ in range(2)
    )
    # no stop token at generation: a row that ended by chance would stop early
    config = PPOConfig(
        output_dir=out,
        per_device_train_batch_size=shape.micro_rows,
        gradient_accumulation_steps=count // shape.micro_rows,
        local_rollout_forward_batch_size=shape.micro_rows,
        num_mini_batches=1,
        num_ppo_epochs=1,
        total_episodes=STEPS * count,
        num_sample_generations=0,
        response_length=longest_reply(shape, options["kind"]),
        temperature=1.0,
        learning_rate=1e-6,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
    )
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=critic,
        train_dataset=Dataset.from_dict({"input_ids": queries}),
        callbacks=[phases],
    )


def main() -> None:
    """Run the trainer turn by turn."""
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    shape, turns = SHAPES[options["shape"]], PipedTurns()
    phases = Phases(turns)
    with tempfile.TemporaryDirectory(prefix="bench-") as out:
        trainer = trainer_of(folder, shape, options, phases, out)
        eos_id = trainer.processing_class.eos_token_id
        trainer.stop_token_id = eos_id  # after generation: replies end at the end of turn
        force_lengths(shape, options["kind"], turns, phases, eos_id)
        observe(phases)
        trainer.train()


if __name__ == "__main__":
    main()
