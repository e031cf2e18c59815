"""A judge's verdicts as traces in MLflow: prompt, both replies, the verdict as an assessment.

One trace per judged pair, found on the Traces page of the stage's run. Ids are made from the run
and the pair, so that a trace that is sent again replaces itself.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    AssessmentSource,
    Feedback,
    Span,
    SpanType,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import (
    AssessmentMetadataKey,
    SpanAttributeKey,
    TraceMetadataKey,
    TraceTagKey,
)
from mlflow.tracing.utils import dump_span_attribute_value

from rlhf_core.evidence.items import read_items
from rlhf_core.rundir import StageResult

log = logging.getLogger("rlhf.tracking")
SPANS = 50  # in one request
PREVIEW = 1000  # characters, MLflow's limit of a preview
RIVALS = ("sft", "champion")


@dataclass(frozen=True)
class JudgedPair:
    """One judged pair: two replies by name, and what judge, people and reward model prefer.

    preferred: by rater, the name of the reply that it prefers or 'tie'.
    """

    comparison: str
    key: str
    prompt: str
    replies: dict[str, str]
    preferred: dict[str, str]
    rationale: str


def judged_pairs(result: StageResult, run_dir: Path, most: int) -> Iterator[JudgedPair]:
    """Yield at most `most` judged pairs of each comparison in an evaluation's files."""
    if "items" in result.files:
        items = read_items(run_dir / result.files["items"])
        for rival in [rival for rival in RIVALS if f"judge_vs_{rival}_policy_first" in items]:
            yield from _replies(items, rival, most)
    if "judged_pairs" in result.files:
        yield from _labelled(read_items(run_dir / result.files["judged_pairs"]), most)


def _replies(items: dict[str, list], rival: str, most: int) -> Iterator[JudgedPair]:
    name = f"judge_vs_{rival}"
    judged = [place for place, outcome in enumerate(items[name]) if outcome is not None]
    for place in judged[:most]:
        row = {column: values[place] for column, values in items.items()}
        yield JudgedPair(
            comparison=name,
            key=f"{place}/{row['prompt_id']}",
            prompt=row["prompt"],
            replies={of: row[f"{of}_reply"] for of in ("policy", rival)},
            preferred={"judge": _preferred(row[name], "policy", rival)},
            rationale=_rationale(row, name, "policy", rival),
        )


def _labelled(columns: dict[str, list], most: int) -> Iterator[JudgedPair]:
    judged = [place for place, outcome in enumerate(columns["judge"]) if outcome is not None]
    for place in judged[:most]:
        row = {column: values[place] for column, values in columns.items()}
        preferred = {"judge": _preferred(row["judge"], "chosen", "rejected"), "people": "chosen"}
        if "chosen_score" in row:
            margin = row["chosen_score"] - row["rejected_score"]
            share = 0.5 if margin == 0 else float(margin > 0)
            preferred["reward_model"] = _preferred(share, "chosen", "rejected")
        yield JudgedPair(
            comparison="judge_vs_people",
            key=f"{place}/{row['pair_id']}",
            prompt=row["prompt"],
            replies={of: row[of] for of in ("chosen", "rejected")},
            preferred=preferred,
            rationale=_rationale(row, "judge", "chosen", "rejected"),
        )


def _preferred(outcome: float, ours: str, theirs: str) -> str:
    return {1.0: ours, 0.0: theirs}.get(outcome, "tie")


def _rationale(row: Mapping[str, Any], name: str, ours: str, theirs: str) -> str:
    """Return the judge's answer in each order, with its reason where it gave one."""
    lines = []
    for order, first in (("first", ours), ("second", theirs)):
        answer = _preferred(row[f"{name}_{ours}_{order}"], ours, theirs)
        reason = row.get(f"{name}_{ours}_{order}_reason")
        lines.append(f"{first} shown first: {answer}" + (f". {reason}" if reason else ""))
    return "\n".join(lines)


@dataclass(frozen=True)
class VerdictTraces:
    """The traces of one evaluation's run.

    judge: the recipe's section evaluate.judge. when: milliseconds since the epoch.
    """

    client: MlflowClient
    experiment_id: str
    run_id: str
    judge: Mapping[str, Any]
    when: int

    def store(self, result: StageResult, run_dir: Path) -> None:
        """Store the verdicts of an evaluation; a server without traces gets none.

        Raises what MLflow raises.
        """
        pairs = list(judged_pairs(result, run_dir, self.judge.get("traces", 0)))
        tracing = TracingClient(self.client.tracking_uri)
        spans = [self._span(pair) for pair in pairs]
        try:
            for start in range(0, len(spans), SPANS):
                tracing.log_spans(self.experiment_id, spans[start : start + SPANS])
        except NotImplementedError as error:  # a server before MLflow 3.4
            log.warning("The judge's verdicts are not shown in MLflow: %s", error)
            return
        for pair in pairs:  # after its span, whose trace this completes
            tracing.start_trace(self._trace(pair))

    def _hex(self, pair: JudgedPair, *further: str) -> str:
        text = "/".join((self.run_id, pair.comparison, pair.key, *further))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _span(self, pair: JudgedPair) -> Span:
        identity = self._hex(pair)
        attributes = {
            SpanAttributeKey.REQUEST_ID: f"tr-{identity}",
            SpanAttributeKey.SPAN_TYPE: SpanType.EVALUATOR,
            SpanAttributeKey.INPUTS: {"prompt": pair.prompt, **pair.replies},
            SpanAttributeKey.OUTPUTS: pair.preferred["judge"],
        }
        time = self.when * 1_000_000
        return Span.from_dict(
            {
                "name": pair.comparison,
                "trace_id": f"tr-{identity}",
                "span_id": identity[:16],
                "parent_span_id": None,
                "start_time_unix_nano": time,
                "end_time_unix_nano": time,
                "status": {"code": "OK", "message": ""},
                "attributes": {
                    name: dump_span_attribute_value(value) for name, value in attributes.items()
                },
            }
        )

    def _trace(self, pair: JudgedPair) -> TraceInfo:
        return TraceInfo(
            trace_id=f"tr-{self._hex(pair)}",
            trace_location=TraceLocation.from_experiment_id(self.experiment_id),
            request_time=self.when,
            execution_duration=0,
            state=TraceState.OK,
            request_preview=pair.prompt[:PREVIEW],
            response_preview=pair.preferred["judge"],
            trace_metadata={TraceMetadataKey.SOURCE_RUN: self.run_id},
            tags={TraceTagKey.TRACE_NAME: pair.comparison, "comparison": pair.comparison},
            assessments=[
                self._assessment(pair, rater, value) for rater, value in pair.preferred.items()
            ],
        )

    def _assessment(self, pair: JudgedPair, rater: str, value: str) -> Feedback:
        feedback = Feedback(
            name=rater,
            value=value,
            source=self._source(rater),
            rationale=pair.rationale if rater == "judge" else None,
            trace_id=f"tr-{self._hex(pair)}",
            metadata={AssessmentMetadataKey.SOURCE_RUN_ID: self.run_id},
            create_time_ms=self.when,
            last_update_time_ms=self.when,
        )
        feedback.assessment_id = f"a-{self._hex(pair, rater)}"
        return feedback

    def _source(self, rater: str) -> AssessmentSource:
        if rater == "people":
            return AssessmentSource("HUMAN", "comparisons")
        if rater == "reward_model":
            return AssessmentSource("CODE", rater)
        if function := self.judge.get("function"):
            return AssessmentSource("CODE", function)
        return AssessmentSource("LLM_JUDGE", self.judge["model"])
