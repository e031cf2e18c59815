"""`rlhf leaderboard`: table, JSON, page, and a thousand runs in five seconds."""

import json
import random
import time

import pytest
from command_line import rlhf_process
from made_runs import MadeRun, measured, write_runs

from flows import api

METRIC = "eval/win_rate"


def runs_of(betas: tuple[float, ...], seeds: int) -> list[MadeRun]:
    """Return runs whose win rate falls with beta."""
    return [
        MadeRun(
            f"tiny-a-{place}",
            measured(METRIC, 0.9 - beta + 0.002 * seed, 0.02),
            {"seed": str(seed), "ppo.beta": str(beta)},
        )
        for place, (beta, seed) in enumerate((b, s) for b in betas for s in range(1, seeds + 1))
    ]


def test_groups_over_seeds_are_printed_with_what_to_compare(rlhf, home, tmp_path):
    ids = write_runs(home / "mlflow.db", runs_of((0.1, 0.2), 3))
    page = tmp_path / "board.html"
    words = ["leaderboard", "tiny", "--group-by", "ppo.beta", "--over-seeds"]
    code, out, err = rlhf(*words, "--html", page)
    assert code == 0 and err == "", err
    assert "2 groups by ppo.beta over seeds, the highest eval/win_rate first" in out
    lines = [line.split() for line in out.splitlines() if "(3 seeds)" in line]
    assert [line[:2] for line in lines] == [["1", "0.1"], ["2", "0.2"]]
    assert "significantly lower" in out and "at most 5% are expected to be false" in out
    assert f"rlhf compare {' '.join(each[:8] for each in ids)}" in out
    assert "significantly lower" in page.read_text() and "eval/win_rate" in page.read_text()
    printed = json.loads(rlhf(*words, "--json")[1])
    assert [row["values"] for row in printed["rows"]] == [{"ppo.beta": 0.1}, {"ppo.beta": 0.2}]
    assert printed["rows"][1]["difference"] == pytest.approx(-0.1)
    assert printed["rows"][1]["interval_covers"] == "seeds"
    found = api.leaderboard("tiny", group_by="ppo.beta", over_seeds=True)
    assert json.loads(json.dumps(found.as_json())) == printed
    assert list(found.frame()["verdict"]) == ["first", "significantly lower"]


def test_an_empty_store_and_a_wrong_filter_say_so(rlhf, home):
    assert rlhf("leaderboard")[:2] == (0, "No run has eval/win_rate.\n")
    write_runs(home / "mlflow.db", runs_of((0.1,), 1))
    code, _, err = rlhf("leaderboard", "ppo.bet=0.1")
    assert code == 2 and "no run has ppo.bet" in err and "did you mean ppo.beta" in err


@pytest.mark.slow
def test_a_thousand_runs_are_ranked_in_five_seconds(home):
    rng = random.Random(1)
    made = [
        MadeRun(
            f"tiny-a-{place}",
            measured(METRIC, rng.uniform(0.4, 0.9), 0.02),
            {"seed": str(place % 5), "ppo.beta": str(place // 5)},
        )
        for place in range(1000)
    ]
    write_runs(home / "mlflow.db", made, filling=True)
    for words in ([], ["--group-by", "ppo.beta", "--over-seeds"]):
        began = time.monotonic()
        done = rlhf_process(home, "leaderboard", *words, "--json")
        took = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["rows"]) == (200 if words else 1000)
        print(f"{took:.1f} s: rlhf leaderboard {' '.join(words)}")
        assert took < 5
