"""The sample of an evaluation's prompts, by which contests on the same ones are known."""

from contests import evaluated, outcomes

from rlhf_core.contest.prompts import SAMPLED, looked_at, sampled, share_prompts
from rlhf_core.digest import digest_json
from rlhf_core.evidence.items import item_id, with_benchmarks, write_items


def ids(first: int, last: int) -> list[str]:
    return [item_id(f"prompt {number}") for number in range(first, last)]


def test_the_sample_is_read_from_the_items_and_is_empty_where_they_name_no_prompts(tmp_path):
    prompts = ids(0, 250)
    subject = evaluated(tmp_path, {"score": outcomes(0.5)}, prompts=prompts)
    found = looked_at(subject.result, subject.run_dir)
    assert found == tuple(sorted(prompts)[:SAMPLED])
    (tmp_path / "old").mkdir()
    old = evaluated(tmp_path / "old", {"score": outcomes(0.5)})
    assert looked_at(old.result, old.run_dir) == ()
    assert looked_at(old.result.model_copy(update={"files": {}}), old.run_dir) == ()


def test_a_sample_counts_a_repeated_prompt_once():
    assert sampled(["b", "a", "b"]) == ("a", "b")


def test_sets_that_share_a_tenth_of_their_prompts_are_found_and_disjoint_ones_are_not():
    """200 pairs of sets of 256 prompts, of which 47 are in both: a tenth of all 465."""
    for start in range(0, 200_000, 1000):
        first = sampled(ids(start, start + 256))
        assert share_prompts(first, sampled(ids(start + 209, start + 465)))
        assert not share_prompts(first, sampled(ids(start + 256, start + 512)))
    assert not share_prompts((), ()) and not share_prompts(first, ())


def test_a_part_of_a_split_is_found_in_it():
    """50 of 1,000 prompts are left after a leak search."""
    whole = sampled(ids(0, 1000))
    for start in range(0, 950, 50):
        assert share_prompts(whole, sampled(ids(start, start + 50)))


def benchmark_items(numbers: range, *, task: str = "abc", asks: str = "", rows: str = "") -> dict:
    """Return the columns of a benchmark's items. asks: of the task's prompts; rows: of its data."""
    return {
        "prompt_id": [f"{task}/{n}/{digest_json([n, rows])[:8]}" for n in numbers],
        "prompt": [f"{asks}question {n}" for n in numbers],
        "target": [f"answer {n}" for n in numbers],
    }


def looked_at_with(folder, items: dict, benchmark: str | None = "abc") -> tuple[str, ...]:
    """Return the sample of an evaluation of 250 prompts and of a benchmark's items."""
    subject = evaluated(folder, {"score": outcomes(0.5)}, prompts=ids(0, 250))
    columns = with_benchmarks({"prompt_id": ids(0, 250)}, {"abc": items})
    result = subject.result.model_copy(update={"files": write_items(folder, columns)})
    return looked_at(result, folder, benchmark)


def test_the_items_of_a_benchmark_are_known_whatever_else_its_task_file_says(tmp_path):
    """Bug: a changed comment in the file made the count of looks begin at 1 again."""
    first = looked_at_with(tmp_path, benchmark_items(range(250)))
    assert len(first) == 2 * SAMPLED
    for changed in ({"asks": "Q: "}, {"rows": "source"}, {"task": "renamed"}):
        same = looked_at_with(tmp_path, benchmark_items(range(250), **changed))
        assert share_prompts(first, same)
    assert not share_prompts(first, looked_at_with(tmp_path, benchmark_items(range(250, 500))))


def test_a_benchmark_beside_the_prompts_is_none_of_them(tmp_path):
    """Bug: fresh prompts shared the items of a benchmark whose name sorts among the ids."""
    found = looked_at_with(tmp_path, benchmark_items(range(250)), benchmark=None)
    assert found == sampled(ids(0, 250))
