"""The rows of a split: read when they are asked for, and the prompts of comparisons."""

from source_tables import entry, pair

from rlhf_core.data.rows.split_rows import SplitRows, first_of_each_prompt
from rlhf_core.data.rows.store import MemoryStore
from rlhf_core.data.splits import prompt_record, to_line, unique_prompts
from rlhf_core.data.table import TableEntry

PAIRS = [pair(1, "a", "x", "y"), pair(2, " a", "x", "z"), pair(3, "b", "x", "y")]


def test_prompts_of_pairs_stand_behind_the_rows_each_once():
    own = entry(9, "c")
    rows = SplitRows([own], first_of_each_prompt(PAIRS))
    assert len(rows) == 3
    prompts = unique_prompts(one.canonical for one in PAIRS)
    assert list(rows) == [own.canonical, *prompts] == [rows[0], rows[1], rows[-1]]
    assert rows[1] == prompt_record([{"role": "user", "content": "a"}])
    assert list(rows.lines()) == [to_line(record) for record in rows]
    assert list(rows.ids()) == [own.id] and [dict(t) for t in rows.tokens()] == [{}, {}, {}]
    assert list(rows[1:]) == prompts and list(rows[:1]) == [own.canonical]


def test_only_pairs_with_votes_are_voted():
    voted = {**PAIRS[0].canonical, "votes_for": 1, "votes_against": 0}
    rows = SplitRows([*PAIRS, TableEntry(4, MemoryStore(dict, voted))])
    assert list(rows.voted()) == [voted]
