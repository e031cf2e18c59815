"""A registered reward model as an MLflow model: conversations or pairs in, scores out.

MLflow runs this file when it saves and when it loads the model ("models from code"). It needs
mlflow, torch and transformers, but not the project. It imports the last two only when weights are
loaded.
"""

import hashlib
import json
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
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = Path(context.artifacts["model"])
        if found := [file.name for file in folder.rglob("*") if file.suffix in PICKLES]:
            raise refused(
                f"{folder} holds {found}, which may run code when loaded; expected safetensors only"
            )
        require_bytes(folder)
        safely = {"local_files_only": True, "trust_remote_code": False}
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
        self.tokenizer.chat_template = self.tokenizer.chat_template or CHAT_TEMPLATE
        self.members = []  # of an ensemble, whose mean is the score; one for a single reward model
        for member, offset in self._parts(folder):
            model = AutoModelForSequenceClassification.from_pretrained(
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
        """Return the token ids that training used for this prompt and reply.

        They are the prompt with the opening of the assistant's turn, the reply and end-of-text.
        """
        try:
            text = self.tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # each template has its own kind of error
            raise refused(
                f"row {row}: the model's chat template refuses {prompt}: {error}"
            ) from error
        written = self._written(prompt, text, reply)
        opening, answer, both = (
            self.tokenizer(part, add_special_tokens=False)["input_ids"]
            for part in (text, written, text + written)
        )
        if both[: len(opening)] == opening:  # some tokenizers begin a text alone with a blank
            answer = both[len(opening) :]
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


mlflow.models.set_model(Reward())
