"""Small real parts: a two-layer Llama with a word tokenizer, and splits of validated data.

The suite fails when a test leaves a process behind.
"""

import json
import random
import signal
from importlib.util import find_spec
from pathlib import Path

import left_processes
import pytest

WORDS = [f"w{i}" for i in range(56)]
if find_spec("torch"):  # else tests of the control side alone, in an environment of control.txt
    import torch

    # In this process, not in stages: tests run beside each other, and on tiny models threads only
    # wait.
    torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script started the suite by `... &`
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind():
    """Fail at the end of the session, after all other fixtures, when a process lives on."""
    left_processes.mark()
    yield
    if left := left_processes.end_left():
        pytest.fail("processes live on that tests have started:\n  " + "\n  ".join(left))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Make the folder of a random Llama: two layers, hidden size 64, one head of 64.

    It has a tokenizer and a chat template of its own.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from rlhf_core.data.chat_template import ensure_chat_template
    from rlhf_core.file_modes import follow_umask

    vocabulary = {
        word: i
        for i, word in enumerate(["<pad>", "<eos>", "<unk>", "user", "assistant", ":", *WORDS])
    }
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    ensure_chat_template(tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    folder = tmp_path_factory.mktemp("tiny") / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    follow_umask(folder)
    return folder


def _text(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def _reply(rng: random.Random, prompt: list[dict], *, up: bool) -> dict:
    words = [word for word in WORDS if (int(word[-1]) % 2 == 0) == up]
    text = " ".join(rng.choice(words) for _ in range(rng.randint(3, 8)))
    return {"id": text, "prompt": prompt, "response": text, "label": up, "meta": {}}


@pytest.fixture(scope="session")
def tiny_splits(tmp_path_factory) -> Path:
    """Write the eight splits as JSON Lines.

    The chosen answer has more words that end in an even digit and, among equals, fewer words. A
    reply with thumbs up has such words alone, one with thumbs down the others.
    """
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("splits")

    def prompt() -> list[dict]:
        return [{"role": "user", "content": _text(rng, 2, 6)}]

    def quality(text: str) -> int:
        return sum(int(word[-1]) % 2 == 0 for word in text.split()) * 10 - len(text.split())

    def pair() -> dict:
        first, second = sorted((_text(rng, 3, 12), _text(rng, 3, 12)), key=quality)
        return {"id": str(rng.random()), "prompt": prompt(), "chosen": second, "rejected": first}

    def write(name: str, rows: list[dict]) -> None:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    for side, count in (("train", 96), ("heldout", 64)):
        write(
            f"demonstrations_{side}",
            [
                {"id": str(i), "prompt": prompt(), "response": _text(rng, 3, 12)}
                for i in range(count)
            ],
        )
        write(f"comparisons_{side}", [pair() for _ in range(count)])
        write(f"prompts_{side}", [{"id": str(i), "prompt": prompt()} for i in range(count)])
    rng = random.Random(8)
    for side, count in (("train", 96), ("heldout", 64)):
        write(f"feedback_{side}", [_reply(rng, prompt(), up=i % 3 == 0) for i in range(count)])
    return folder
