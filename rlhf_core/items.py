"""Per-item evidence of the stages reward, dpo and evaluate: one row a held-out item, in items.parquet of the run directory.

evaluate  prompt_id, prompt; for each NAME in policy, sft, champion (when present): NAME_reply, NAME_score, NAME_tokens,
          NAME_ended, NAME_repetition, NAME_independent (when there is an independent scorer), NAME_score_2, ... (when
          there are further reward models); policy_kl (nats); judge_vs_sft, judge_vs_champion (when there is a judge:
          1 policy better, 0.5 tie, 0 worse, null not judged)
reward    pair_id, prompt, chosen, rejected, chosen_score, rejected_score, chosen_tokens, rejected_tokens
dpo       the same; the score is the implicit reward, beta (logpi - logpi_sft)
"""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ITEMS = "items.parquet"
Columns = dict[str, list]


def item_id(*texts: str) -> str:
    """Identity of an item between runs: the first 16 hex digits of sha256 over the texts' UTF-8, one after the other."""
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def last_user_turn(messages: list[dict[str, str]]) -> str:
    """What the reply answers: the last user message, or the last message when no user spoke."""
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), messages[-1]["content"])


def write_items(folder: Path, columns: Columns) -> dict[str, str]:
    """Write items.parquet; returns its entry in the stage's files. Raises ArrowInvalid for unequal lengths."""
    pq.write_table(pa.table(columns), folder / ITEMS)
    return {"items": ITEMS}


def read_items(path: Path) -> Columns:
    """The columns of an items.parquet."""
    return pq.read_table(path).to_pydict()
