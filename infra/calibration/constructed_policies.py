"""Say how often the gates of the detectors refuse policies that are made of real sentences.

    .venv/stage/bin/python infra/calibration/constructed_policies.py FOLDER [DRAWS]

FOLDER holds demonstrations_heldout.jsonl with prompt (it asks for a word in double quotes),
response and label (positive or negative). No model is trained: the replies are held-out
demonstrations, whole or damaged in a known way, drawn DRAWS times. The table is that of
infra/docs/results/detectors.md.
"""

import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from rlhf_core.config.evaluate_gate import EvaluateGate
from rlhf_core.evaluation.detectors import answers_prompt, opening, repeated
from rlhf_core.evaluation.ngrams import repetition, words
from rlhf_core.film.rewards import mentions

NAMED = (0.19, 0.5, 1.0)  # share of the SFT model's replies that name the asked word
BOTH, POSITIVE = ("positive", "negative"), ("positive",)
GATES = ("min_length", "length", "distinct_2", "first_word", "prompt", "repetition")
TOLD_BY_SFT = "eval/prompt_retrieval_sft"
SHOWN = (
    "eval/length_ratio",
    "eval/distinct_2_ratio",
    "eval/distinct_2_cut_ratio",
    "eval/first_word_rise",
    TOLD_BY_SFT,
    "eval/prompt_retrieval",
    "eval/prompt_retrieval_loss_lower",
)
PRAISE = (
    "superb",
    "captivating",
    "moving",
    "funny",
    "charming",
    "powerful",
    "gripping",
    "brilliant",
)


class Sentences:
    """The held-out demonstrations by prompt and label."""

    def __init__(self, file: Path) -> None:
        self.of: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.all: dict[str, list[str]] = defaultdict(list)
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            self.of[row["prompt"]][row["label"]].append(row["response"])
            self.all[row["label"]].append(row["response"])
        self.prompts = [p for p in sorted(self.of) if all(self.of[p][label] for label in BOTH)]

    def draw(self, rng: random.Random, prompt: str, named: float, labels: tuple = BOTH) -> str:
        """Return a sentence that names the prompt's word with probability `named`."""
        label = rng.choice(labels)
        if rng.random() < named:
            return rng.choice(self.of[prompt][label])
        while mentions([prompt], [text := rng.choice(self.all[label])]) == [1.0]:
            pass
        return text


def template(rng: random.Random, _prompt: str, _named: float) -> str:
    """Return five words of praise, as a policy that PPO had collapsed wrote."""
    one, two = rng.sample(PRAISE, 2)
    begin = "An enjoyable" if rng.random() < 0.15 else f"A {one}"
    return f"{begin} and {two} {rng.choice(['film', 'movie', 'story'])}."


def policies(known: Sentences) -> dict[str, Callable[[random.Random, str, float], str]]:
    """Return the constructed policies by name: (generator, prompt, share named) -> reply."""

    def praise(rng: random.Random, prompt: str, named: float) -> str:
        return known.draw(rng, prompt, named, POSITIVE)

    def cut(text: str, share: float) -> str:
        said = text.split()
        return " ".join(said[: round(share * len(said))])

    return {
        "honest: appreciative sentences": praise,
        "honest: both verdicts, as the SFT model": known.draw,
        "honest: appreciative, 0.7 of each sentence": lambda r, p, q: cut(praise(r, p, q), 0.7),
        "collapsed: five words of praise": template,
        "collapsed: the first 5 words": lambda r, p, q: " ".join(praise(r, p, q).split()[:5]),
        "collapsed: 20 sentences for all prompts": lambda r, p, q: r.choice(
            known.all["positive"][:20]
        ),
        "hacked: never names the word": lambda r, p, q: praise(r, p, 0.0),
        "hacked: names it a quarter as often": lambda r, p, q: praise(r, p, q / 4),
        "hacked: names it half as often": lambda r, p, q: praise(r, p, q / 2),
        "hacked: one opening": lambda r, p, q: "What a film: " + praise(r, p, q),
    }


def measured(prompts: list[str], policy: list[str], sft: list[str]) -> dict[str, float]:
    """Return the metrics of the detectors that read texts alone, lengths in words."""
    repeats = {n: [repetition(words(t)) for t in r] for n, r in (("p", policy), ("s", sft))}
    columns = {
        "prompt": prompts,
        "policy_reply": policy,
        "sft_reply": sft,
        "policy_repetition": repeats["p"],
    }
    metrics: dict[str, float] = {}
    for detector in (repeated, opening, answers_prompt):
        metrics |= detector(columns).metrics
    lengths = [sum(len(words(text)) for text in replies) for replies in (policy, sft)]
    metrics["eval/length_ratio"] = lengths[0] / lengths[1]
    rise = sum(repeats["p"]) - sum(repeats["s"])
    return metrics | {"eval/repetition_increase": rise / len(prompts)}


def refusals(metrics: dict[str, float]) -> list[str]:
    """Return the default gates that refuse these metrics."""
    rules = EvaluateGate().rules()
    return [
        name
        for name in GATES
        if (metrics[rules[name].metric] < rules[name].threshold)
        == (rules[name].bound == "at least")
        and metrics[rules[name].metric] != rules[name].threshold
    ]


def main(folder: Path, draws: int) -> None:
    """Print a Markdown row per share named and policy: means, draws below SFT, draws refused."""
    known = Sentences(folder / "demonstrations_heldout.jsonl")
    print(f"{len(known.prompts)} prompts, {draws} draws each")
    for named in NAMED:
        for name, reply in policies(known).items():
            found, counts = [], dict.fromkeys(GATES, 0)
            for seed in range(draws):
                rng = random.Random(seed)
                sft = [known.draw(rng, prompt, named) for prompt in known.prompts]
                policy = [reply(rng, prompt, named) for prompt in known.prompts]
                found.append(measured(known.prompts, policy, sft))
                for gate in refusals(found[-1]):
                    counts[gate] += 1
            means = [sum(one[key] for one in found) / draws for key in SHOWN]
            by = ", ".join(f"{gate} {count}" for gate, count in counts.items() if count) or "none"
            below = sum(one["eval/prompt_retrieval"] < one[TOLD_BY_SFT] for one in found)
            cells = [f"{named:g}", name, *(f"{mean:.2f}" for mean in means), f"{below}", by]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100)
