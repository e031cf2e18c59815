"""A registered reward model as an MLflow model: conversations or pairs in, scores out.

MLflow runs this file when it saves and when it loads the model ("models from code"). A version
holds the modules of rlhf_core that it imports, so that it needs mlflow, torch and transformers but
not the project. Heavy imports wait until weights are loaded.
"""

import json
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model

BATCH = 16  # conversations scored at once
PAIR = ["prompt", "chosen", "rejected"]
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
        from transformers import AutoConfig

        folder = Path(context.artifacts["model"])
        root = folder.parents[1]
        sys.path += map(str, root.glob("rlhf_core_*.zip"))  # the modules that are imported below
        from rlhf_core.data import render
        from rlhf_core.modeling.classifier import classifier_class
        from rlhf_core.modeling.registered import open_registered
        from rlhf_core.modeling.requirements import context_length

        registered = Model.load(str(root)).metadata or {}
        self.render = render
        self.tokenizer = open_registered(
            folder, registered.get("digest"), registered.get("template_date")
        )
        safely = {"local_files_only": True, "trust_remote_code": False}
        self.members = []  # of an ensemble, whose mean is the score; one for a single reward model
        for member, offset in self._parts(folder):
            config = AutoConfig.from_pretrained(member, **safely)
            model = classifier_class(config).from_pretrained(
                member, use_safetensors=True, dtype=torch.float32, **safely
            )
            if model.config.num_labels != 1:
                raise refused(
                    f"{member} has {model.config.num_labels} labels; a reward model has one"
                )
            self.members.append(
                (model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), offset)
            )
        self.limit = context_length(self.members[0][0].config) or 2**31

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
            opening = self.render.render_prompt(self.tokenizer, prompt)
        except Exception as error:  # each template has its own kind of error
            raise refused(f"row {row}: {error}") from error
        ids = [*opening, *self.render.render_response(self.tokenizer, reply)]
        if len(ids) > self.limit:
            raise refused(f"row {row} has {len(ids)} tokens; the model reads {self.limit}")
        return ids

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


mlflow.models.set_model(Reward())
