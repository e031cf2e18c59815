"""Small tokenizers and chat templates with the habits of real families of chat models.

The templates are those of the models named, shortened where a part needs tools or images.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = ["system user assistant model USER: ASSISTANT: User: Assistant: [INST] [/INST] <<SYS>>"]
CORPUS += ["Is it so? So it is. And now? Today Date: Yes, it is so. No. Why? Cutting Knowledge"] * 4
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role']"
    " + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3_2 = (
    "{{- bos_token }}\n{%- if not date_string is defined %}\n"
    "    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    "{%- if messages[0]['role'] == 'system' %}\n"
    "    {%- set system_message = messages[0]['content']|trim %}\n"
    '    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = "" %}\n'
    "{%- endif %}\n"
    '{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}\n'
    '{{- "Cutting Knowledge Date: December 2023\\n" }}\n'
    '{{- "Today Date: " + date_string + "\\n\\n" }}\n{{- system_message }}\n{{- "<|eot_id|>" }}\n'
    "{%- for message in messages %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
PHI_3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
VICUNA = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{{ messages[0]['content'] + ' ' }}{% else %}{% set loop_messages = messages %}{% endif %}"
    "{% for message in loop_messages %}{% if message['role'] == 'user' %}"
    "{{ 'USER: ' + message['content'].strip() + ' ' }}{% else %}"
    "{{ 'ASSISTANT: ' + message['content'].strip() + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
DEEPSEEK = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
    "{% endif %}{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'User: ' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}"
    "{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN_3 = (  # reasoning is removed from answers before the last question
    "{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}"
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{%- set content = m.content %}"
    "{%- set reasoning = '' %}{%- if '</think>' in content %}"
    "{%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last and (loop.last or reasoning) %}"
    "{{- '<|im_start|>assistant\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n'"
    " + content.lstrip('\n') + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}{%- endif %}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
DEEPSEEK_R1 = (  # the prompt opens the reasoning, which earlier answers have not
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
    "{% elif m.role == 'assistant' %}"
    "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
GLM = (  # an empty reasoning stands before each answer
    "{{ '[gMASK]' }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|assistant|>\n<think></think>\n' + m.content.strip() + '<|end|>' }}"
    "{% else %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_level(specials: list[str], *, begin: str | None = None) -> Tokenizer:
    """Return a byte-level BPE tokenizer, as of GPT-2, Llama 3, Qwen and DeepSeek.

    begin: the special token that it writes before each text.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    return _beginning(core, begin)


def sentencepiece(
    specials: list[str], *, begin: str | None = None, blank: str = "each"
) -> Tokenizer:
    """Return a BPE tokenizer with '▁' for blanks and byte fallback, as of Llama 2 and Gemma.

    blank: where a blank is put before a text: 'each' piece between special tokens, the 'first'
    piece alone, or 'none'.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=150, show_progress=False, special_tokens=[])
    )
    state = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", *specials, *(f"<0x{byte:02X}>" for byte in range(256)), *state["vocab"]]
    vocabulary = {token: n for n, token in enumerate(dict.fromkeys([*tokens, "▁"]))}
    core = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[tuple(merge) for merge in state["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    replace = normalizers.Replace(" ", "▁")
    if blank == "first":
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        prepend = [normalizers.Prepend("▁")] if blank == "each" else []
        core.normalizer = normalizers.Sequence([*prepend, replace])
    strip = [] if blank == "none" else [decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return _beginning(core, begin)


def _beginning(core: Tokenizer, begin: str | None) -> Tokenizer:
    if begin:
        core.add_special_tokens([begin])
        core.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, core.token_to_id(begin))]
        )
    return core


@dataclass(frozen=True)
class Family:
    """A family's tokenizer, special tokens, chat template, and what ends an assistant's turn."""

    core: Callable[[], Tokenizer]
    template: str | None
    end: str
    named: dict[str, str]  # eos_token, bos_token, pad_token
    added: Sequence[AddedToken | str] = ()

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return a fresh tokenizer as its folder would give it."""
        made = PreTrainedTokenizerFast(tokenizer_object=self.core(), **self.named)
        special = [AddedToken(t, special=True) if isinstance(t, str) else t for t in self.added]
        made.add_tokens(special)
        made.chat_template = self.template
        return made


IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HEADERS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
THINK = [AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")]
S = ["<s>", "</s>"]
R1 = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
TAGS = [
    AddedToken(f"<|{name}|>", rstrip=True, normalized=False, special=True)
    for name in ("system", "user", "assistant", "end")
]

FAMILIES = {
    "chatml on a base model": Family(
        lambda: byte_level(IM[:1]),
        CHATML,
        "<|im_end|>",
        {"eos_token": IM[0], "bos_token": IM[0], "pad_token": IM[0]},
        IM[1:],
    ),
    "qwen 2.5": Family(
        lambda: byte_level(IM), CHATML, IM[2], {"eos_token": IM[2], "pad_token": IM[0]}, IM[1:2]
    ),
    "chatml on llama 2": Family(
        lambda: sentencepiece(S, begin="<s>"),
        CHATML,
        "<|im_end|>",
        {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", "pad_token": "</s>"},
        IM[1:],
    ),
    "llama 2": Family(
        lambda: sentencepiece(S, begin="<s>"),
        LLAMA_2,
        "</s>",
        {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"},
    ),
    "llama 2, blank before the first text": Family(
        lambda: sentencepiece(S, begin="<s>", blank="first"),
        LLAMA_2,
        "</s>",
        {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"},
    ),
    "llama 3": Family(
        lambda: byte_level(HEADERS, begin=HEADERS[0]),
        LLAMA_3,
        "<|eot_id|>",
        {"eos_token": HEADERS[1], "bos_token": HEADERS[0]},
        [*HEADERS[2:], "<|eot_id|>"],
    ),
    "llama 3.2": Family(
        lambda: byte_level(HEADERS, begin=HEADERS[0]),
        LLAMA_3_2,
        "<|eot_id|>",
        {"eos_token": "<|eot_id|>", "bos_token": HEADERS[0]},
        HEADERS[1:],
    ),
    "gemma": Family(
        lambda: sentencepiece(["<pad>", "<eos>", "<bos>"], begin="<bos>", blank="none"),
        GEMMA,
        "<end_of_turn>",
        {"eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<pad>", "unk_token": "<unk>"},
        ["<start_of_turn>", "<end_of_turn>"],
    ),
    "phi 3": Family(
        lambda: sentencepiece([*S, "<|endoftext|>"]),
        PHI_3,
        "<|end|>",
        {"eos_token": IM[0], "bos_token": "<s>", "pad_token": IM[0], "unk_token": "<unk>"},
        TAGS,
    ),
    "mistral": Family(
        lambda: sentencepiece(S, begin="<s>"),
        MISTRAL,
        "</s>",
        {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"},
    ),
    "zephyr": Family(
        lambda: sentencepiece(S, begin="<s>"),
        ZEPHYR,
        "</s>",
        {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "</s>", "unk_token": "<unk>"},
    ),
    "vicuna": Family(
        lambda: sentencepiece(S, begin="<s>"),
        VICUNA,
        "</s>",
        {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"},
    ),
    "deepseek": Family(
        lambda: byte_level(R1, begin=R1[0]),
        DEEPSEEK,
        R1[1],
        {"eos_token": R1[1], "bos_token": R1[0], "pad_token": R1[1]},
    ),
    "glm": Family(
        lambda: byte_level(["<|endoftext|>"]),
        GLM,
        "<|end|>",
        {"eos_token": IM[0], "pad_token": IM[0]},
        ["[gMASK]", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", *THINK],
    ),
    "no template": Family(lambda: byte_level(["<|endoftext|>"]), None, IM[0], {"eos_token": IM[0]}),
    "no template on llama 2": Family(
        lambda: sentencepiece(S, begin="<s>"),
        None,
        "</s>",
        {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"},
    ),
}
# a dialogue that goes on does not begin with prompt and answer if the answer holds reasoning
REASONING = {
    "qwen 3": Family(
        lambda: byte_level(IM),
        QWEN_3,
        IM[2],
        {"eos_token": IM[2], "pad_token": IM[0]},
        [IM[1], *THINK],
    ),
    "deepseek r1": Family(
        lambda: byte_level(R1, begin=R1[0]),
        DEEPSEEK_R1,
        R1[1],
        {"eos_token": R1[1], "bos_token": R1[0], "pad_token": R1[1]},
        ["<｜User｜>", "<｜Assistant｜>", *THINK],
    ),
}
