"""A registered policy as an MLflow model: conversations in, replies out.

MLflow runs this file when it saves and when it loads the model ("models from code"). It needs
mlflow, torch and transformers, but not the project. It imports the last two only when weights are
loaded.
"""

import hashlib
import json
import threading
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
        model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **safely
        )
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        pad = self.tokenizer.pad_token_id
        self.pad_id = self.tokenizer.eos_token_id if pad is None else pad
        listed = self.model.generation_config.eos_token_id
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
            text = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # each template has its own kind of error
            raise refused(
                f"row {row}: the model's chat template refuses {messages}: {error}"
            ) from error
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
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


mlflow.models.set_model(Policy())
