"""`rlhf trace`: what it runs first, what it prints, its page; the stages are a small program."""

import io
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from rich.console import Console

from flows.report.heatmap import scale, strength, trace_page
from flows.report.trace_text import shape, size, totals, trace_lines, visible
from rlhf_core.ppo.trace.meanings import AXES, QUANTITIES
from tasks.execution import stage_process
from tasks.records.run_record import Record, StageRecord
from tasks.records.workspace import Workspace

EVIL = "<script>alert(1)</script>"
# The conftest's program, and a trace of two responses.
PROGRAM = """
import json, runpy, sys
from pathlib import Path
from rlhf_core.rundir import StageResult, StageSpec, write_atomically

stage, spec_path, run_path = sys.argv[1:]
if stage != "trace":
    runpy.run_path({other!r}, run_name="__main__")
    sys.exit()
spec, run = StageSpec.model_validate_json(Path(spec_path).read_text()), Path(run_path)
for item in spec.inputs.values():
    item.verified()
for name in ("trace", "tokens"):
    (run / (name + ".json")).write_text((Path(__file__).parent / (name + ".json")).read_text())
files = dict(trace="trace.json", tokens="tokens.json")
result = StageResult(stage=stage, digest=spec.digest, seconds=0.1, files=files)
write_atomically(run / "result.json", result.model_dump_json())
"""


def words() -> dict:
    return {
        name: {"title": title, "meaning": meaning, "unit": unit}
        for name, (title, meaning, unit) in QUANTITIES.items()
    }


def response(row: int, tokens: list[str], **values) -> dict:
    numbers = {name: [-0.5 * (place + 1) for place in range(len(tokens))] for name in QUANTITIES}
    return {
        "row": row,
        "why": ["longest"] if row == 0 else [],
        "prompt": f"say {EVIL}",
        "prompt_tokens": 4,
        "ended": True,
        "score": 1.25,
        "reward": 1.0,
        "kl": 0.5,
        "ids": list(range(len(tokens))),
        "tokens": tokens,
        "values": numbers | {"ratio": [1.0 + 0.1 * place for place in range(len(tokens))]} | values,
    }


@pytest.fixture
def tokens() -> dict:
    return {
        "quantities": words(),
        "rows": [response(0, ["one", EVIL, "\n"]), response(3, [" two"])],
        "of": 8,
    }


@pytest.fixture
def flow() -> dict:
    tensor = {
        "by": None,
        "axes": ["B", "R"],
        "shape": [8, 12],
        "dtype": "float32",
        "bytes": 384,
        "count": 1,
    }
    steps = [
        {
            "name": "experience",
            "title": "models score",
            "where": "a.py: f",
            "seconds": 0.25,
            "forward_passes": {"actor": 2, "critic": 2},
            "collectives": {"allreduce": 3},
            "bytes_between_ranks": 2048,
            "tensors": [
                tensor | {"name": "values_BR", "meaning": "the forecast"},
                tensor
                | {
                    "name": "logits_BRV",
                    "by": "actor",
                    "axes": ["B", "R", "V"],
                    "shape": [4, 12, 99],
                    "bytes": 19008,
                    "count": 2,
                    "meaning": "scores",
                },
            ],
        }
    ]
    return {
        "step": 1,
        "ranks": 2,
        "steps": steps,
        "axes": AXES,
        "forward_passes": {"actor": 2, "critic": 2},
        "bytes_between_ranks": 2048,
        "seconds": 0.25,
        "ratio_before_max_distance_from_1": 0.0,
        "metrics": {"ppo/score_mean": 1.0},
        "settings": {"beta": 0.1},
        "notes": ["a note & more"],
    }


@pytest.fixture
def recipe_file(recipe_file, tmp_path, command, monkeypatch, flow, tokens) -> Path:
    """The recipe, run by a stage program that knows the stage `trace` too."""
    program = tmp_path / "tracing" / "stage.py"
    program.parent.mkdir()
    program.write_text(textwrap.dedent(PROGRAM).replace("{other!r}", repr(command[1])))
    for name, content in (("trace", flow), ("tokens", tokens)):
        (program.parent / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.setattr(stage_process, "COMMAND", (sys.executable, str(program)))
    return recipe_file


def test_of_several_ranks_the_passes_are_those_of_rank_0(flow):
    sent = "2 KiB sent by a rank to others (2 ranks)"
    assert totals(flow) == f"0.25 s; forward passes of rank 0: actor 2, critic 2; {sent}"
    one = totals(flow | {"ranks": 1, "bytes_between_ranks": 0})
    assert "; forward passes: actor 2, critic 2; " in one and one.endswith("(1 rank)")


def started(home: Path) -> list[str]:
    return (home / "runs" / "started.log").read_text().split()


# The command


@pytest.mark.slow
def test_trace_runs_the_missing_stages_then_the_batch_and_neither_twice(
    rlhf, recipe_file, home, tmp_path
):
    code, out, err = rlhf(
        "trace", recipe_file, "--rows", 2, "--html", tmp_path / "page.html", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert (
        found["trace"]["forward_passes"] == {"actor": 2, "critic": 2}
        and len(found["tokens"]["rows"]) == 2
    )
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert started(home) == ["validate", "sft", "reward"]
    (folder,) = (home / "runs").glob("trace-*")
    spec = json.loads((folder / "spec.json").read_text())
    assert (
        set(spec["inputs"]) == {"policy", "reward", "prompts_train"} and spec["config"]["rows"] == 2
    )
    assert (
        Path(spec["inputs"]["policy"]["path"]).parent.name.startswith("sft-")
        and "gate" not in spec["config"]["ppo"]
    )

    code, out, err = rlhf("trace", recipe_file, "--rows", 2)
    assert code == 0 and started(home) == ["validate", "sft", "reward"]
    assert (
        "1. experience" in out
        and "Response 0 (longest)" in out
        and str(home / "reports" / folder.name) in out
    )


@pytest.mark.slow
def test_a_refused_reward_gate_stops_the_trace_unless_it_is_overridden(
    rlhf, recipe_file, home, command
):
    (Path(command[1]).parent / "plan.json").write_text(
        json.dumps({"reward": {"metrics": {"reward/accuracy": 0.6}}})
    )
    code, _, err = rlhf("trace", recipe_file)
    assert code == 3 and "accuracy" in err and not list((home / "runs").glob("trace-*"))
    override = (
        'reward.gate.overrides.accuracy={threshold=0.5, by="tester", reason="to look at a batch of'
        ' it"}'
    )
    code, out, err = rlhf("trace", recipe_file, "--set", override, "--json")
    assert code == 0 and json.loads(out)["trace"]["step"] == 1, err


@pytest.mark.slow
def test_trained_needs_a_policy_and_keeps_the_sft_model_as_reference(rlhf, recipe_file, home):
    code, _, err = rlhf("trace", recipe_file, "--trained")
    assert code == 2 and "stage ppo of recipe tiny has not been run" in err and "--until ppo" in err
    assert rlhf("run", recipe_file, "--until", "ppo")[0] == 0
    code, _, err = rlhf("trace", recipe_file, "--trained", "--json")
    assert code == 0, err
    (folder,) = (home / "runs").glob("trace-*")
    given = json.loads((folder / "spec.json").read_text())["inputs"]
    parents = {
        name: Path(given[name]["path"]).parent.name.partition("-")[0]
        for name in ("policy", "reference")
    }
    assert parents == {"policy": "ppo", "reference": "sft"}


def test_help_names_the_options_and_imports_nothing_heavy():
    code = (
        "import sys, flows.cli.app\ntry: flows.cli.app.main(['trace', '--help'])\nexcept"
        " SystemExit: print([name for name in ('torch', 'prefect', 'mlflow', 'vllm') if name in"
        " sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert plain.rstrip().endswith("[]") and all(
        option in plain for option in ("--rows", "--html", "--trained", "--timeline", "--json")
    )


# The timeline


def test_timeline_writes_a_trace_file_of_a_run(rlhf, home, tmp_path):
    """The spans themselves: tests/orchestration/tasks/analysis/test_timeline.py."""
    stages = [
        StageRecord(stage="sft", run_dir=tmp_path, started=2_000, ended=3_500, status="FINISHED"),
        StageRecord(stage="reward", run_dir=tmp_path, started=4_000, ended=4_500, cached=True),
    ]
    about = {"recipe": {}, "commit": "c", "dirty": False, "tracking_uri": "", "started": 1_000}
    Record(id="20270115-000000-ab", name="tiny-1", stages=stages, **about).save(Workspace(home))
    code, out, err = rlhf("trace", "latest", "--timeline", tmp_path / "there" / "line.json")
    assert code == 0 and "sft: 1.5 s, 0 steps\nreward: finished before" in out, err
    assert f"Timeline: {tmp_path / 'there' / 'line.json'} (open it in" in out
    events = json.loads((tmp_path / "there" / "line.json").read_text())["traceEvents"]
    spans = [(one["name"], one["ts"], one["dur"]) for one in events if one["ph"] == "X"]
    assert spans == [("sft", 2_000_000, 1_500_000), ("reward", 4_000_000, 500_000)]
    code, out, err = rlhf("trace", "--timeline", "tiny-1", "--json")
    found = json.loads(out)
    assert code == 0 and Path(found["timeline"]) == home / "reports" / "tiny-1-timeline.json", err
    assert [stage["cached"] for stage in found["stages"]] == [False, True]
    assert Path(found["timeline"]).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["latest", "--timeline"], "'latest' names no run .*expected a name"),
        (
            ["latest", "--timeline", "--set", "seed=2"],
            "--timeline with --set; expected a run alone",
        ),
        (["latest", "--timeline", "--trained", "--rows", "2"], "with --rows and --trained"),
        (["quickstart", "line.json"], "got line.json beside quickstart, without --timeline"),
    ],
)
def test_timeline_with_what_it_cannot_use_is_refused(rlhf, home, words, message):
    code, _, err = rlhf("trace", *words)
    assert code == 2 and re.search(message, err), err


# Page and tables


def test_page_escapes_tokens_and_prompts_and_refers_to_nothing_outside(flow, tokens):
    text = trace_page("tiny <b>", flow, tokens)
    # prompts, table
    assert (
        EVIL not in text
        and text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == len(QUANTITIES) + 3
    )
    assert "tiny &lt;b&gt;" in text and "a note &amp; more" in text
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//)|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text


def test_page_colours_by_sign_and_strength(flow, tokens):
    assert scale("kl", tokens["rows"]) == 1.5 and scale("ratio", tokens["rows"]) == pytest.approx(
        0.2
    )
    assert strength(-1.5, "kl", 1.5) == ("down", 100)
    assert strength(0.375, "kl", 1.5) == ("up", 50)  # a quarter of the span, half of the colour
    assert strength(1.0, "ratio", 0.2) == ("up", 0)
    assert strength(0.0, "kl", 0.0) == ("up", 0)
    assert strength("nan", "kl", 1.5) == ("odd", 100)
    text = trace_page("tiny", flow, tokens)
    assert '<span class="t down" style="--v:100%" title="\u22121.5 nats">\u21b5</span>' in text
    assert '<span class="t up" style="--v:71%" title="1.1">&lt;script&gt;' in text


def test_page_and_terminal_say_that_there_is_no_critic(flow, tokens):
    tokens["rows"] = [response(0, ["one", "two"], value=None)]
    assert "none: there is no critic" in trace_page("tiny", flow, tokens)
    before = list(QUANTITIES).index("value")
    assert re.search(rf"one +(\S+ +){{{before}}}none ", printed(flow, tokens))


def test_values_that_are_not_finite_are_shown(flow, tokens):
    tokens["rows"] = [response(0, ["one"], reward=["nan"])]
    assert 'class="t odd"' in trace_page("tiny", flow, tokens)
    assert " nan " in printed(flow, tokens)


def printed(flow: dict, tokens: dict) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    for part in trace_lines(flow, tokens):
        console.print(part)
    return console.export_text()


def test_terminal_shows_flow_traffic_and_numbers_beside_tokens(flow, tokens):
    text = printed(flow, tokens)
    assert "0.25 s; forward passes: actor 2, critic 2; between ranks: 2 KiB (allreduce 3)" in text
    assert re.search(
        r"logits_BRV +actor +B 4 \u00d7 R 12 \u00d7 V 99 +float32 +18.6 KiB +scores \[largest"
        r" of 2\]",
        text,
    )
    assert "2 KiB sent by a rank to others (2 ranks)" in text
    assert re.search(r"1 +one +\u22120.5 .* 1 *\n", text) and f" {EVIL} " in text
    assert "note: a note & more" in text


def test_sizes_shapes_and_white_space():
    assert [size(n) for n in (0, 1023, 3482, 12 << 20, 5 << 40)] == [
        "0 bytes",
        "1023 bytes",
        "3.4 KiB",
        "12 MiB",
        "5,120 GiB",
    ]
    assert shape({"axes": [], "shape": ["1,000 numbers"]}) == "1,000 numbers"
    assert visible("a\n\tb") == "a\u21b5\u21e5b"
