"""One pass over the texts gives each row the counts that it has alone, whatever its batch."""

from source_tables import data, pair, table
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf_core.data.chat_template import ensure_chat_template
from rlhf_core.data.render import render_prompt, render_response
from rlhf_core.data.rows.store import BATCH
from rlhf_core.data.rows.texts import read_texts


def test_rows_of_several_batches_are_counted_as_each_alone():
    words = ["<eos>", "<unk>", "<|user|>", "<|assistant|>", *(f"w{i}" for i in range(40))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")
    ensure_chat_template(tokenizer)
    rows = [
        pair(i, "w1 " * (i % 7 + 1), "w2 <eos>" if i % 500 == 3 else "w2 w3", "w3 " * (i % 5 + 1))
        for i in range(2 * BATCH + 5)
    ]
    rows[BATCH] = pair(BATCH, "w1", "w2 ", "w2")
    counted, found = read_texts(table("comparisons", rows), data(), tokenizer)
    for i in (0, 3, 6, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 4):
        record = rows[i].canonical
        assert counted.entries[i].tokens == {
            "prompt": len(render_prompt(tokenizer, record["prompt"])),
            "chosen": len(render_response(tokenizer, record["chosen"])),
            "rejected": len(render_response(tokenizer, record["rejected"])),
        }
    assert all(entry.tokens for entry in counted.entries)
    assert list(found.spelled) == [3, 503, 1003, 1503, 2003] and list(found.equal) == [BATCH]
    assert found.spelled[3] == "the text '<eos>' is a special token of the tokenizer"
    assert not found.refused
