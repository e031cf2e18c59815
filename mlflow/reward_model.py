"""A registered reward model as an MLflow model: conversations or pairs in, scores out.

MLflow runs this file when it saves and when it loads the model ("models from code"). It needs
mlflow, torch and transformers, but not the project. It imports the last two only when weights are
loaded.
"""

import hashlib
import json
import re
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model

BATCH = 16  # conversations scored at once
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
PAIR = ["prompt", "chosen", "rejected"]
CHAT_TEMPLATE = (  # training uses it where the tokenizer has none
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
refused = MlflowException.invalid_parameter_value  # a server answers it with status 400


class Reward(mlflow.pyfunc.PythonModel):
    """A reward model that scores conversations, or compares two answers.

    In: `messages`, ending with the assistant's turn. Out: `score`. Or in: `prompt`, `chosen`,
    `rejected`. Out: `chosen_score`, `rejected_score`, their `margin` and the `probability` that the
    chosen one is preferred, sigmoid(margin).
    """

    def load_context(self, context) -> None:
        """Load tokenizer and members. Refuses pickles, and bytes other than the registered ones."""
        import torch
        from transformers import AutoTokenizer

        folder = Path(context.artifacts["model"])
        if found := [file.name for file in folder.rglob("*") if file.suffix in PICKLES]:
            raise refused(
                f"{folder} holds {found}, which may run code when loaded; expected safetensors only"
            )
        require_bytes(folder)
        safely = {"local_files_only": True, "trust_remote_code": False}
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
        self.tokenizer.chat_template = self.tokenizer.chat_template or CHAT_TEMPLATE
        set_end_of_turn(self.tokenizer)
        self.members = []  # of an ensemble, whose mean is the score; one for a single reward model
        for member, offset in self._parts(folder):
            model = classifier_class(member, safely).from_pretrained(
                member, use_safetensors=True, dtype=torch.float32, **safely
            )
            if model.config.num_labels != 1:
                raise refused(
                    f"{member} has {model.config.num_labels} labels; a reward model has one"
                )
            self.members.append(
                (model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), offset)
            )
        # transformers maps other names of the context, such as n_positions, but not MPT's
        named = ("max_position_embeddings", "max_seq_len")
        config = self.members[0][0].config.get_text_config()
        limits = (getattr(config, name, None) for name in named)
        self.limit = next(filter(None, limits), 2**31)

    @staticmethod
    def _parts(folder: Path) -> list[tuple[Path, float]]:
        """Return folder and offset of each member; ensemble.json exists when there are several."""
        if not (folder / "ensemble.json").exists():
            return [(folder, 0.0)]
        offsets = json.loads((folder / "ensemble.json").read_text(encoding="utf-8"))["offsets"]
        return [
            (folder if n == 1 else folder / f"member_{n}", offset)
            for n, offset in enumerate(offsets, start=1)
        ]

    def predict(
        self, context, model_input: pd.DataFrame, params: dict | None = None
    ) -> pd.DataFrame:
        """Return the scores of conversations, or of the answers of each pair."""
        columns = set(model_input.columns)
        if columns == {"messages"}:
            turns = [
                self._last_turn(row, messages)
                for row, messages in enumerate(model_input["messages"])
            ]
            return pd.DataFrame({"score": self._scores(turns)}, index=model_input.index)
        if columns != set(PAIR):
            raise refused(
                f"found the columns {sorted(columns)}; expected only 'messages', or 'prompt',"
                " 'chosen' and 'rejected'"
            )
        pairs = [
            self._pair(row, *values)
            for row, values in enumerate(model_input[PAIR].itertuples(index=False))
        ]
        scores = self._scores([turn for pair in pairs for turn in pair])
        result = pd.DataFrame(
            {"chosen_score": scores[0::2], "rejected_score": scores[1::2]}, index=model_input.index
        )
        result["margin"] = result["chosen_score"] - result["rejected_score"]
        # the sigmoid, without overflow
        result["probability"] = 0.5 * (1 + np.tanh(result["margin"] / 2))
        return result

    def _last_turn(self, row: int, messages) -> list[int]:
        is_list = isinstance(messages, list | np.ndarray)
        if not is_list or len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise refused(
                f"row {row}: expected messages that end with the assistant's turn; found"
                f" {messages!r}"
            )
        return self._ids(row, list(messages[:-1]), messages[-1]["content"])

    def _pair(self, row: int, prompt, chosen, rejected) -> tuple[list[int], list[int]]:
        are_texts = isinstance(chosen, str) and isinstance(rejected, str)
        if not are_texts or not isinstance(prompt, str | list | np.ndarray):
            raise refused(
                f"row {row}: expected a prompt (text or messages) and two texts; found"
                f" {[prompt, chosen, rejected]!r}"
            )
        messages = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        )
        return self._ids(row, messages, chosen), self._ids(row, messages, rejected)

    def _ids(self, row: int, prompt: list[dict], reply: str) -> list[int]:
        """Return training's token ids: prompt, opening of the assistant's turn, reply, its end."""
        try:
            opening = encode_messages(self.tokenizer, prompt)
        except Exception as error:  # each template has its own kind of error
            raise refused(
                f"row {row}: the model's chat template refuses {prompt}: {error}"
            ) from error
        text = self.tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=False
        )
        written = self._written(prompt, text, reply)
        answer = encode_text(self.tokenizer, written)
        both = self.tokenizer(text + written, add_special_tokens=False)["input_ids"]
        spells = special_tokens(self.tokenizer).search(written)
        if both[: len(opening)] == opening and not spells:
            answer = both[len(opening) :]  # some tokenizers begin a text alone with a blank
        ids = [*missing_bos(self.tokenizer, opening), *opening]
        ids += [*answer, self.tokenizer.eos_token_id]
        if len(ids) > self.limit:
            raise refused(f"row {row} has {len(ids)} tokens; the model reads {self.limit}")
        return ids

    def _written(self, prompt: list[dict], opening: str, reply: str) -> str:
        """Return the reply with what the template writes around it in a dialogue that goes on."""
        turns = [{"role": "assistant", "content": reply}, {"role": "user", "content": "And now?"}]
        try:
            whole = self.tokenizer.apply_chat_template(
                [*prompt, *turns], add_generation_prompt=True, tokenize=False
            )
        except Exception:  # the template refuses a second question
            return reply
        written, end, _ = whole.removeprefix(opening).partition(self.tokenizer.eos_token)
        return written if whole.startswith(opening) and end and reply.strip() in written else reply

    def _scores(self, sequences: list[list[int]]) -> np.ndarray:
        """Return the score at each sequence's last token, end-of-text included."""
        scores = np.zeros(len(sequences))
        by_length = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
        for start in range(0, len(sequences), BATCH):
            rows = by_length[start : start + BATCH]
            scores[rows] = self._batch([sequences[row] for row in rows])
        return scores

    def _batch(self, sequences: list[list[int]]) -> np.ndarray:
        """Return the scores of one padded batch.

        Padding is on the right: no real token sees it, and positions count from the first token.
        """
        import torch

        lengths = [len(sequence) for sequence in sequences]
        ids_BL = torch.zeros((len(sequences), max(lengths)), dtype=torch.long)
        mask_BL = torch.zeros_like(ids_BL)
        for row, sequence in enumerate(sequences):
            ids_BL[row, : len(sequence)] = torch.tensor(sequence)
            mask_BL[row, : len(sequence)] = 1
        last = (range(len(sequences)), [length - 1 for length in lengths])
        scores = []
        with torch.inference_mode():
            for model, offset in self.members:
                ids, mask = ids_BL.to(model.device), mask_BL.to(model.device)
                hidden_BLD = model.base_model(
                    ids, attention_mask=mask, use_cache=False
                ).last_hidden_state
                scores.append(
                    model.score(hidden_BLD[last]).squeeze(-1).float().cpu().numpy() - offset
                )
        return np.mean(scores, axis=0)


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


def classifier_class(folder: Path, safely: dict) -> type:
    """Return the class that loads a reward model.

    A family without a sequence classifier gets the one of rlhf_core/modeling/classifier.py.
    """
    import transformers
    from transformers.modeling_layers import GenericForSequenceClassification

    config = transformers.AutoConfig.from_pretrained(folder, **safely)
    if any(name.endswith("ForTokenClassification") for name in config.architectures or []):
        return transformers.AutoModelForTokenClassification
    family = type(config)
    if family in transformers.AutoModelForSequenceClassification._model_mapping:
        return transformers.AutoModelForSequenceClassification
    base = next(
        one
        for one in transformers.AutoModelForCausalLM._model_mapping[family].__mro__
        if one.__name__.endswith("PreTrainedModel") and one is not transformers.PreTrainedModel
    )
    own = {"base_model_prefix": base.base_model_prefix, "config_class": family}
    return type("WithScalarHead", (GenericForSequenceClassification, base), own)


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


mlflow.models.set_model(Reward())
