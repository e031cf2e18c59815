"""The sizes of what `make bench` measures, and the lengths of its rows.

Only the standard library is used, because TRL's environment imports this module too.
"""

import random
from dataclasses import dataclass, replace

# config.json of HuggingFaceTB/SmolLM2-135M
SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    "tie_word_embeddings": True,
    "initializer_range": 0.041666666666666664,
}
TINY = SMOLLM2_135M | {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
}


@dataclass(frozen=True)
class Shape:
    """The sizes of one comparison.

    prompts: of the PPO step with equal replies. ragged_prompts: of the one with ragged replies.
    ragged: the shortest and the longest of those replies. median and sigma: of the log-normal
    lengths of the supervised rows, tokens. longest: the longest of those. pairs: of the reward
    step.
    """

    model: dict
    prompts: int
    ragged_prompts: int
    prompt_tokens: int
    reply_tokens: int
    ragged: tuple[int, int]
    micro_rows: int
    demonstrations: int
    pairs: int
    median: float
    sigma: float
    longest: int
    equal: int  # tokens of each row where all rows have one length
    sampler: str


FULL = Shape(
    model=SMOLLM2_135M,
    prompts=32,
    ragged_prompts=16,
    prompt_tokens=48,
    reply_tokens=48,
    ragged=(8, 128),
    micro_rows=8,
    demonstrations=16,
    pairs=8,
    median=96.0,
    sigma=0.7,
    longest=384,
    equal=128,
    sampler="vllm",
)
# a fifth of the layers and a quarter of the rows, where there is no quiet half an hour
SMALL = replace(
    FULL,
    model=SMOLLM2_135M | {"num_hidden_layers": 6},
    prompts=8,
    ragged_prompts=8,
    micro_rows=4,
    demonstrations=8,
    pairs=4,
)
QUICK = Shape(
    model=TINY,
    prompts=4,
    ragged_prompts=4,
    prompt_tokens=8,
    reply_tokens=8,
    ragged=(2, 16),
    micro_rows=2,
    demonstrations=4,
    pairs=2,
    median=16.0,
    sigma=0.5,
    longest=32,
    equal=16,
    sampler="transformers",
)
SHAPES = {"full": FULL, "small": SMALL, "quick": QUICK}


def reply_lengths(shape: Shape, kind: str, *, warm: bool) -> list[int]:
    """Return the tokens of each reply of a PPO step, in the order of its rows.

    kind: 'equal' or 'ragged' (uniform, seeded; the longest one is there). warm: the short replies
    of the step that only warms up.
    """
    count = prompts(shape, kind)
    if warm:
        return [min(shape.ragged)] * count
    if kind == "equal":
        return [shape.reply_tokens] * count
    return [max(shape.ragged), *ragged_replies(shape, count - 1, seed=1)]


def prompts(shape: Shape, kind: str) -> int:
    """Return the prompts of a PPO step, one reply each."""
    return shape.prompts if kind == "equal" else shape.ragged_prompts


def ragged_replies(shape: Shape, count: int, *, seed: int) -> list[int]:
    """Return the tokens of `count` ragged replies, uniform and seeded."""
    rng = random.Random(seed)
    return [rng.randint(*shape.ragged) for _ in range(count)]


def longest_reply(shape: Shape, kind: str) -> int:
    """Return the tokens of a PPO step's longest reply."""
    return shape.reply_tokens if kind == "equal" else shape.ragged[1]


def row_lengths(shape: Shape, count: int, *, seed: int) -> list[int]:
    """Return the tokens of `count` ragged rows: log-normal, seeded, at least 12."""
    rng = random.Random(seed)
    drawn = [round(shape.median * rng.lognormvariate(0.0, shape.sigma)) for _ in range(count)]
    return [min(shape.longest, max(12, length)) for length in drawn]
