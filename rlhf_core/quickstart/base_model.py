"""The quickstart's base model: a small Llama, trained from scratch on the raw corpus.

Its tokenizer is word-level.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf_core.file_modes import follow_umask
from rlhf_core.quickstart.corpus import raw_text
from rlhf_core.quickstart.language import vocabulary

PAD, BOS, EOS, UNK, USER, ASSISTANT = SPECIAL = (
    "<pad>",
    "<bos>",
    "<eos>",
    "<unk>",
    "<user>",
    "<assistant>",
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant>{{ message['content'] }}{{ eos_token }}"
    "{% else %}<user>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
MAX_TOKENS = 256
STEPS = 300
WARMUP = 20
BATCH = 32  # conversations per step, about 40 tokens each
LR = 3e-3


def make_base_model(
    folder: Path, *, seed: int, split_seed: int, log: Callable[[int, int, float], None]
) -> None:
    """Train the base model and save it with its tokenizer into `folder`.

    It sees no request that the split of `split_seed` holds out.
    log: called with (step, steps, loss in nats per token).
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    text = raw_text(seed, split_seed)
    model = train(make_model(tokenizer), tokenizer, text, steps=STEPS, log=log)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    follow_umask(folder)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word between blanks.

    Its chat template has one token per role. Decoding joins words with one blank.
    """
    words = (*SPECIAL, *vocabulary())
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_TOKENS,
        padding_side="left",
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a fresh model of about 0.6M parameters."""
    ids = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.05,
        tie_word_embeddings=True,
        dtype="float32",
        **ids,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, **ids)
    return model


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    text: Iterator[tuple[str, str]],
    *,
    steps: int,
    log: Callable[[int, int, float], None],
) -> LlamaForCausalLM:
    """Train for next-token prediction on `steps` batches of raw conversations, and return `model`.

    No conversation is seen twice. AdamW with linear warm-up and linear decay.
    text: (prompt, reply) without end.
    log: called with (step, steps, loss in nats per token).
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / WARMUP, 1 - i / steps)
    )
    model.train()
    for step in range(1, steps + 1):
        loss = model(**_batch(tokenizer, list(islice(text, BATCH)))).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        log(step, steps, loss.item())
    return model.eval()


def _batch(
    tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]
) -> dict[str, torch.Tensor]:
    texts = [f"{BOS}{USER}{prompt}{ASSISTANT}{reply}{EOS}" for prompt, reply in pairs]
    tensors = tokenizer(
        texts, padding=True, padding_side="right", return_tensors="pt", return_token_type_ids=False
    )
    labels = tensors["input_ids"].masked_fill(tensors["attention_mask"] == 0, -100)
    return {**tensors, "labels": labels}
