"""The quickstart's benchmark."""

import json

from rlhf_core import ROOT
from rlhf_core.quickstart.benchmark import ITEMS, benchmark_rows
from rlhf_core.quickstart.language import vocabulary
from rlhf_core.quickstart.utility import parse_request

FILE = ROOT / "rlhf_core/evaluation/benchmarks/tasks/quickstart_subject/quickstart_subject.jsonl"


def test_the_shipped_rows_are_those_that_the_code_makes():
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    assert rows == benchmark_rows()


def test_one_sentence_restates_the_request_and_three_do_not():
    rows, known = benchmark_rows(), set(vocabulary())
    assert len(rows) == ITEMS == len({tuple(parse_request(row["request"])) for row in rows})
    for row in rows:
        asked = set(parse_request(row["request"]))
        right = [asked <= set(sentence.split()) for sentence in row["sentences"]]
        assert right.count(True) == 1 and right.index(True) == row["answer"]
        assert len({len(sentence.split()) for sentence in row["sentences"]}) == 1
        assert set(" ".join(row["sentences"]).split()) <= known
    answers = [row["answer"] for row in rows]
    assert all(40 < answers.count(k) < 80 for k in range(4))
