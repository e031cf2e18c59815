"""Rollouts by our sampler and by vLLM itself on one engine: `rollouts.py FOLDER OPTIONS`.

Each turn generates the same replies of equal length twice: by VLLMSampler.generate, with a seed and
log-probabilities per request as PPO has them, and by LLM.generate with one set of parameters for
all requests, neither seed nor log-probabilities. OPTIONS is JSON: dtype and shape. One engine
serves both, so that the ratio is of the way it is asked alone.
"""

import json
import sys
from pathlib import Path
from typing import Any

from forced_lengths import ForcedLengths
from shapes import SHAPES, Shape, reply_lengths
from turns import PipedTurns, clocks, since

from rlhf_core.config import Sampling
from rlhf_core.sampling.factory import open_sampler
from rlhf_core.sampling.vllm import VLLMSampler


def main() -> None:
    """Generate by both ways in each turn, in alternating order."""
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    shape: Shape = SHAPES[options["shape"]]
    prompts = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))["prompts"]
    sampling = Sampling(max_new_tokens=shape.reply_tokens, kv_cache_mib=320)
    sampler = open_sampler(
        folder / "model", sampling, max_prompt_tokens=shape.prompt_tokens, dtype=options["dtype"]
    )
    assert isinstance(sampler, VLLMSampler)
    llm = sampler._llm
    raw_generate = llm.generate  # before replies are given their lengths
    forced = ForcedLengths(sampler, lambda: reply_lengths(shape, "equal", warm=False))
    turns = PipedTurns()
    while True:
        seconds = {}
        for way in ("ours", "raw") if turns.taken % 2 else ("raw", "ours"):
            llm.reset_prefix_cache()  # as after each sync of weights
            began = clocks()
            if way == "ours":
                forced.generate(prompts, seeds=list(range(len(prompts))), eos_id=2)
            else:
                _raw(raw_generate, prompts, shape)
            taken = since(began)
            seconds |= {way: taken["step"], f"{way}_cpu": taken["cpu"]}
        turns.done(**seconds)


def _raw(generate: Any, prompts: list[list[int]], shape: Shape) -> None:
    from vllm import SamplingParams

    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    parameters = SamplingParams(
        temperature=1.0, max_tokens=shape.reply_tokens, ignore_eos=True, detokenize=False
    )
    generate(inputs, parameters, use_tqdm=False)


if __name__ == "__main__":
    main()
