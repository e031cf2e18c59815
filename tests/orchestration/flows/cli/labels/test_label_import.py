"""`rlhf label import`: votes in a file become comparisons."""

import json
import stat

import pytest


def votes_file(tmp_path, split: int = 0):
    rows = [
        {
            "prompt": f"How is {number}?",
            "reply_a": f"So {number}.",
            "reply_b": f"Thus {number}.",
            "annotator": name,
            "choice": "b" if number < split and name == "bob" else "a",
            "comment": f"because of {name}",
        }
        for number in range(40)
        for name in ("ann", "bob")
    ]
    rows += [rows[0] | {"prompt": "Why?", "annotator": n, "choice": "both_bad"} for n in ("ann",)]
    file = tmp_path / "week.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def read(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_votes_become_comparisons_with_pseudonyms_and_provenance_beside(rlhf, home, tmp_path):
    out = tmp_path / "data" / "comparisons.jsonl"
    out.parent.mkdir()
    code, said, err = rlhf("label", "import", str(votes_file(tmp_path)), "--out", str(out))
    assert (code, err) == (0, "") and f"40 comparisons: {out}" in said and "alpha: 1.000" in said
    rows, beside = read(out), out.with_suffix(".labels")
    assert rows[0]["chosen"] == "So 0." and rows[0]["votes"] == [1, 1]
    assert all(name.startswith("annotator-") for name in rows[0]["annotators"])
    assert [row["outcome"] for row in read(beside / "apart.jsonl")] == ["both_bad"]
    assert len(read(beside / "votes.jsonl")) == 81
    provenance = json.loads((beside / "provenance.json").read_text())
    assert provenance["authorship"] == "file" and provenance["comparisons"] == 40
    written = out.read_text() + "".join(f.read_text() for f in beside.iterdir())
    assert '"ann"' not in written and '"bob"' not in written
    assert stat.S_IMODE((home / "labels" / "key").stat().st_mode) == 0o600


def test_annotators_who_disagree_are_refused_and_nothing_is_written(rlhf, tmp_path):
    out, file = tmp_path / "c.jsonl", votes_file(tmp_path, split=15)
    code, _, err = rlhf("label", "import", str(file), "--out", str(out), "--min-alpha", "0.5")
    assert code == 3 and "the lower end of alpha's 95% interval" in err
    assert not out.exists() and not out.with_suffix(".labels").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "c.csv"], "ends in .jsonl"),
        (["--out", "c.jsonl", "--column", "prompt"], "expected NAME=COLUMN"),
        (["--out", "{here}/week.jsonl"], "is there already"),
    ],
)
def test_bad_options_are_one_message_and_exit_2(rlhf, tmp_path, words, says):
    file = votes_file(tmp_path)
    code, _, err = rlhf("label", "import", str(file), *(w.format(here=tmp_path) for w in words))
    assert code == 2 and says in err and "Traceback" not in err


def test_names_stay_where_they_are_asked_for(rlhf, tmp_path):
    out = tmp_path / "c.jsonl"
    code, _, _ = rlhf("label", "import", str(votes_file(tmp_path)), "--out", str(out), "--names")
    assert code == 0 and read(out)[0]["annotators"] == ["ann", "bob"]
