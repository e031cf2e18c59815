"""The kept replies of a live model as a source of pairs to label."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.data.splits import load_split, prompt_keys, short_key
from rlhf_core.errors import BadInput
from rlhf_core.labels.candidates import LIVE
from rlhf_core.rundir import Artifact
from tasks.labels.sources import MOST_PROMPTS, PROMPTS_PER_PAIR, RunModels
from tasks.live.replies import live_replies
from tasks.records.private_file import write_private
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILE = "live.jsonl"  # in the campaign's folder
MOST_READ = 20_000  # kept replies that are looked at, the newest ones


@dataclass
class KeptReplies:
    """Rows {"prompt", "reply", "trace_id", "version"}, and what was left out, by reason."""

    rows: list[dict] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def with_live_replies(
    models: RunModels, folder: Path, total: int, workspace: Workspace
) -> RunModels:
    """Return the models with a file of kept live replies among their inputs.

    folder: the campaign's. Only the owner may read the file. Raises BadInput where no reply is
    kept, or none may be used.
    """
    name = models.recipe.registry.name
    heldout = frozenset[str]().union(*(prompt_keys(load_split(s.path)) for s in models.heldout))
    most = min(PROMPTS_PER_PAIR * total, MOST_PROMPTS)
    kept = kept_replies(connect(workspace.tracking_uri), name, heldout, most)
    _require_some(kept, name)
    file = folder / FILE
    write_private(file, kept.rows)
    found = {"replies": len(kept.rows), "left_out": dict(kept.left_out)}
    return replace(models, inputs=models.inputs | {LIVE: Artifact.of(file)}, live=found)


def kept_replies(
    client: "MlflowClient", name: str, heldout: frozenset[str], most: int
) -> KeptReplies:
    """Return at most `most` kept replies of a registry name, the newest reply to each prompt.

    heldout: short keys of the prompts that must not be used.
    """
    found, seen = KeptReplies(), set[str]()
    for reply in live_replies(client, name, most=MOST_READ):
        reason = reply.unusable
        if not reason:
            key = short_key(reply.messages)
            held = "the prompt is held out" if key in heldout else ""
            reason = held or ("a later reply to the same prompt is kept" if key in seen else "")
            seen.add(key)
        if reason:
            found.left_out[reason] += 1
            continue
        found.rows.append(
            {
                "prompt": reply.messages,
                "reply": reply.reply,
                "trace_id": reply.trace_id,
                "version": reply.version,
            }
        )
        if len(found.rows) == most:
            break
    return found


def _require_some(kept: KeptReplies, name: str) -> None:
    if kept.rows:
        return
    if not kept.left_out:
        raise BadInput(
            f"--from live finds no kept reply of {name} in MLflow; expected replies that were kept."
            f" Keep some: rlhf live {name} --log SHARE (of a model that is live without it: rlhf"
            f" live stop {name} first)."
        )
    reasons = "; ".join(f"{count} because {why}" for why, count in kept.left_out.most_common())
    raise BadInput(
        f"--from live finds {kept.left_out.total()} kept replies of {name}, and may use none:"
        f" {reasons}. Keep more replies, or leave this source out."
    )
