"""The sample of an evaluation's prompts, by which contests on the same ones are known."""

from contests import evaluated, outcomes

from rlhf_core.contest.prompts import SAMPLED, looked_at, sampled, share_prompts
from rlhf_core.evidence.items import item_id


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
