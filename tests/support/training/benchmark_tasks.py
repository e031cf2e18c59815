"""Task files of lm-eval over the words of the tiny model."""

import json
from pathlib import Path

CHOICES = """
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: answers
doc_to_target: right
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
REPLIES = """
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: "{{answers[right]}}"
generation_kwargs: {until: [w9], do_sample: false, max_gen_toks: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def rows(count: int) -> list[dict]:
    """Return items: a question, three answers, and the number of the right one."""
    return [
        {
            "question": f"w{k % 50} w{k % 50 + 1}",
            "answers": [f"w{k % 50 + 2} w3", f"w{k % 50 + 3}", "w7 w8 w9"],
            "right": k % 3,
        }
        for k in range(count)
    ]


def write_task(folder: Path, text: str = CHOICES, count: int = 12) -> Path:
    """Write a task file, called as its folder is, with its items; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
    file = folder / f"{folder.name}.yaml"
    file.write_text(text.replace("NAME", folder.name))
    return file
