"""A registered policy as an MLflow model: conversations in, replies out.

MLflow runs this file when it saves and when it loads the model ("models from code"). It needs
mlflow, torch and transformers, but not the project. It imports the last two only when weights are
loaded.
"""

import hashlib
import json
import re
import threading
from functools import partial
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model

BATCH = 16  # conversations answered at once
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
refused = MlflowException.invalid_parameter_value  # a server answers it with status 400


class Policy(mlflow.pyfunc.PythonModel):
    """A policy that answers conversations.

    In: column `messages`, role and content of each turn, the last one the user's. Out: one reply
    per row.
    """

    def load_context(self, context) -> None:
        """Load tokenizer and weights. Refuses pickles, and bytes other than the registered ones."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        folder = Path(context.artifacts["model"])
        if found := [file.name for file in folder.rglob("*") if file.suffix in PICKLES]:
            raise refused(
                f"{folder} holds {found}, which may run code when loaded; expected safetensors only"
            )
        require_bytes(folder)
        safely = {"local_files_only": True, "trust_remote_code": False}
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
        set_end_of_turn(self.tokenizer)
        model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **safely
        )
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        pad = self.tokenizer.pad_token_id
        self.pad_id = self.tokenizer.eos_token_id if pad is None else pad
        # the pipeline's samplers stop at these too
        listed = self.model.generation_config.eos_token_id or self.model.config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])}
        # the folder's own configuration would change temperature and penalties unnoticed
        self.model.generation_config = GenerationConfig(
            eos_token_id=sorted(ends - {None}), pad_token_id=self.pad_id
        )
        # transformers maps other names of the context, such as n_positions, but not MPT's
        named = ("max_position_embeddings", "max_seq_len")
        limits = (getattr(model.config.get_text_config(), name, None) for name in named)
        self.limit = next(filter(None, limits), 2**31)
        # a server predicts in threads, which share torch's random state
        self.one_at_a_time = threading.Lock()

    def predict(self, context, model_input: pd.DataFrame, params: dict | None = None) -> list[str]:
        """Return one reply per conversation.

        params: temperature (0: greedy), max_tokens (per reply), seed. One call with one seed gives
        the same replies.
        """
        import torch

        settings = {"temperature": 0.0, "max_tokens": 128, "seed": 0} | (params or {})
        if settings["temperature"] < 0 or settings["max_tokens"] < 1:
            raise refused(
                f"temperature must be at least 0 and max_tokens at least 1; found {settings}"
            )
        prompts = [
            self._prompt(row, messages) for row, messages in enumerate(model_input["messages"])
        ]
        by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        replies = {}
        with self.one_at_a_time, torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(settings["seed"])
            for start in range(0, len(prompts), BATCH):
                rows = by_length[start : start + BATCH]
                replies |= zip(
                    rows, self._generate([prompts[row] for row in rows], settings), strict=True
                )
        return [replies[row] for row in range(len(prompts))]

    def _prompt(self, row: int, messages) -> list[int]:
        """Return the token ids of the conversation and of the opening of the assistant's turn."""
        try:
            ids = encode_messages(self.tokenizer, list(messages))
        except Exception as error:  # each template has its own kind of error
            raise refused(
                f"row {row}: the model's chat template refuses {messages}: {error}"
            ) from error
        ids = missing_bos(self.tokenizer, ids) + ids
        if len(ids) >= self.limit:
            raise refused(
                f"row {row} has {len(ids)} tokens; the model reads {self.limit}, its reply included"
            )
        return ids

    def _generate(self, prompts: list[list[int]], settings: dict) -> list[str]:
        """Return replies to prompts, padded on the left so that all continue in the same column."""
        import torch

        P = max(map(len, prompts))
        ids_BP = torch.full((len(prompts), P), self.pad_id)
        mask_BP = torch.zeros((len(prompts), P), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_BP[row, P - len(prompt) :] = torch.tensor(prompt)
            mask_BP[row, P - len(prompt) :] = 1
        how = {"do_sample": False}
        if settings["temperature"] > 0:
            how = {"do_sample": True, "temperature": settings["temperature"], "top_k": 0}
        ids_BL = self.model.generate(
            input_ids=ids_BP.to(self.model.device),
            attention_mask=mask_BP.to(self.model.device),
            max_new_tokens=min(settings["max_tokens"], self.limit - P),
            **how,
        )
        return self.tokenizer.batch_decode(ids_BL[:, P:], skip_special_tokens=True)


def missing_bos(tokenizer, ids: list[int]) -> list[int]:
    """Return BOS if the tokenizer begins each text with it and the template has written none."""
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return [bos] if adds_bos and ids[:1] != [bos] else []


def digest_of(file: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_bytes(folder: Path) -> None:
    """Refuse bytes other than those evaluated and registered, whose digest MLmodel holds."""
    expected = (Model.load(str(folder.parents[1])).metadata or {}).get("digest")
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name[0] != ".")
    parts = [[file.relative_to(folder).as_posix(), digest_of(file)] for file in files]
    found = hashlib.sha256(
        json.dumps(parts, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()
    if expected and found != expected:
        raise refused(
            f"{folder} has digest {found[:12]}, registered was {expected[:12]}; fetch the"
            " version again"
        )


# What follows is the same in policy_model.py and reward_model.py, because each is shipped alone. It
# renders as training does: rlhf_core/data/special_tokens.py and end_of_turn.py.


def set_end_of_turn(tokenizer) -> None:
    """Make the token with which the template ends an assistant's turn the tokenizer's eos_token."""
    answer = "So it is."
    turns = [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": answer}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # each template has its own kind of error; rendering a prompt reports it
        return
    after = text.rpartition(answer)[2].lstrip() if answer in text else ""
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    token = tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
    if token is None or ids[0] == tokenizer.eos_token_id:
        return
    if token.special:
        tokenizer.eos_token = token
    else:
        tokenizer.add_special_tokens({"eos_token": token.content})


def special_tokens(tokenizer) -> re.Pattern:
    """Return a pattern of the texts of the tokenizer's special tokens."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    texts = sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")


def encode_text(tokenizer, text: str) -> list[int]:
    """Return the token ids of a text; a special token that it spells stays text."""
    pattern = special_tokens(tokenizer)
    if not pattern.search(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    split = partial(tokenizer, add_special_tokens=False, split_special_tokens=True)
    special = {*tokenizer.convert_tokens_to_ids(pattern.findall(text))} - {tokenizer.unk_token_id}
    encoded = split(text)["input_ids"]
    if special.isdisjoint(encoded):
        return encoded
    # the vocabulary has the special token as a word of its own: part it behind its first letter
    parts = pattern.sub(lambda found: found[0][0] + "\0" + found[0][1:], text).split("\0")
    return [token for part in parts if part for token in split(part)["input_ids"]]


def encode_messages(tokenizer, messages: list[dict]) -> list[int]:
    """Return the token ids of messages; special tokens come from the template alone.

    A text that spells one is marked before the template and put back after it.
    """
    render = partial(tokenizer.apply_chat_template, add_generation_prompt=True, tokenize=False)
    pattern, texts = special_tokens(tokenizer), [message["content"] for message in messages]
    if not any(map(pattern.search, texts)):
        return tokenizer(render(messages), add_special_tokens=False)["input_ids"]
    used, spelled = set().union(*texts), []
    mark = next(letter for letter in map(chr, range(0xE000, 0xF8FF)) if letter not in used)

    def hide(found: re.Match) -> str:
        spelled.append(found[0])
        return f"{mark}{len(spelled) - 1}{mark}"

    hidden = [message | {"content": pattern.sub(hide, message["content"])} for message in messages]
    ids = []
    for number, piece in enumerate(re.split(f"({pattern.pattern})", render(hidden))):
        if number % 2:
            ids.append(tokenizer.convert_tokens_to_ids(piece))
        elif piece:
            text = re.sub(f"{mark}(\\d+){mark}", lambda found: spelled[int(found[1])], piece)
            ids += encode_text(tokenizer, text)
    return ids


mlflow.models.set_model(Policy())
