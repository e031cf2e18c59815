"""Comparison and lineage from Python say what the commands say."""

import json

import pytest
from synthetic import Story

from flows import api as rlhf


@pytest.fixture
def command_line(rlhf):
    return rlhf


@pytest.mark.slow
def test_a_comparison_and_a_lineage_are_those_of_the_commands(synthetic, command_line):
    for story in (Story("tiny-a-1"), Story("tiny-b-1", lift=2.0, policy="policy-b")):
        synthetic.tell(story)
    found = rlhf.compare("tiny-a-1", rlhf.open_run("tiny-b-1"))
    code, out, err = command_line("compare", "tiny-a-1", "tiny-b-1", "--json", "--no-attach")
    assert code == 0, err
    printed = json.loads(out)
    del printed["page"]
    assert json.loads(json.dumps(found.as_json())) == printed
    score = found.metrics.set_index(["metric", "run"]).loc[("eval/score_policy", "tiny-b-1")]
    assert score["verdict"] == "significant" and score["difference"] == pytest.approx(1.0, abs=0.2)
    assert found.names == ["tiny-a-1", "tiny-b-1"] and "tiny-b-1" in found.differences.columns
    html = found._repr_html_()
    assert html.startswith("<iframe srcdoc=") and "&lt;h1&gt;tiny-a-1 vs tiny-b-1" in html
    assert html.count("<") == 2  # the page is escaped, so that its style stays in the frame
    with pytest.raises(rlhf.ConfigError, match="needs two runs or more, found tiny-a-1"):
        rlhf.compare("tiny-a-1")
    with pytest.raises(rlhf.ConfigError, match="are the same run"):
        rlhf.compare("latest", "tiny-b-1")
    traced = rlhf.lineage("tiny-a-1")
    code, out, err = command_line("lineage", "tiny-a-1", "--json")
    assert code == 0, err
    printed = json.loads(out)
    assert printed["root"] == traced.root and traced.saw is None
    assert printed["edges"] == json.loads(json.dumps(traced.graph.as_json()["edges"]))
