"""A registered policy as an MLflow model: conversations in, replies out.

MLflow runs this file when it saves and when it loads the model ("models from code"). A version
holds the modules of rlhf_core that it imports, so that it needs mlflow, torch and transformers but
not the project. Heavy imports wait until weights are loaded.
"""

import sys
import threading
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model

BATCH = 16  # conversations answered at once
refused = MlflowException.invalid_parameter_value  # a server answers it with status 400


class Policy(mlflow.pyfunc.PythonModel):
    """A policy that answers conversations.

    In: column `messages`, role and content of each turn, the last one the user's. Out: one reply
    per row.
    """

    def load_context(self, context) -> None:
        """Load tokenizer and weights. Refuses pickles, and bytes other than the registered ones."""
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        folder = Path(context.artifacts["model"])
        root = folder.parents[1]
        sys.path += map(str, root.glob("rlhf_core_*.zip"))  # the modules that are imported below
        from rlhf_core.data import render
        from rlhf_core.modeling.registered import open_registered
        from rlhf_core.modeling.requirements import context_length
        from rlhf_core.sampling.stops import stop_ids_of

        registered = Model.load(str(root)).metadata or {}
        self.render = render
        self.tokenizer = open_registered(
            folder, registered.get("digest"), registered.get("template_date")
        )
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        # the pipeline's samplers stop at these; the folder's own configuration would also change
        # temperature and penalties unnoticed
        self.model.generation_config = GenerationConfig(
            eos_token_id=sorted(stop_ids_of(folder) | {self.tokenizer.eos_token_id}),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.limit = context_length(model.config) or 2**31
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
            ids = self.render.render_prompt(self.tokenizer, list(messages))
        except Exception as error:  # each template has its own kind of error
            raise refused(f"row {row}: {error}") from error
        if len(ids) >= self.limit:
            raise refused(
                f"row {row} has {len(ids)} tokens; the model reads {self.limit}, its reply included"
            )
        return ids

    def _generate(self, prompts: list[list[int]], settings: dict) -> list[str]:
        """Return replies to prompts, padded on the left so that all continue in the same column."""
        import torch

        P = max(map(len, prompts))
        ids_BP = torch.full((len(prompts), P), self.tokenizer.pad_token_id)
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
        return [self.render.reply_text(self.tokenizer, ids) for ids in ids_BL[:, P:].tolist()]


mlflow.models.set_model(Policy())
