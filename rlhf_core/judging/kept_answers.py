"""Answers of a judge that are kept between the tries of a stage, because each one is paid.

judge_answers.jsonl in the run directory has one answer per line: {"key", "outcome", "reason",
"tokens"}. A line is appended as soon as the answer is there, so that a stage that dies half way
asks the rest alone. The key is the digest of what the judge was asked: endpoint, model, both
messages (they hold the prompt and both replies in their order), and the largest number of tokens.
"""

import json
import threading
from pathlib import Path

from rlhf_core.digest import digest_json
from rlhf_core.judging.verdicts import JudgeAnswer

FILE = "judge_answers.jsonl"


class KeptAnswers:
    """The answers in a folder's file; new ones are appended, by any number of threads."""

    def __init__(self, folder: Path):
        self._file = folder / FILE
        self._lock = threading.Lock()
        self._answers = dict(filter(None, map(_read, self._lines())))

    def get(self, key: str) -> JudgeAnswer | None:
        """Return the answer that was given to the same question; None where there is none."""
        return self._answers.get(key)

    def add(self, key: str, answer: JudgeAnswer) -> None:
        """Append an answer to the file."""
        values = {"outcome": answer.outcome, "reason": answer.reason, "tokens": answer.tokens}
        line = json.dumps({"key": key} | values)
        with self._lock:
            self._answers[key] = answer
            with self._file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def extend(self, others: "KeptAnswers") -> None:
        """Append the answers of another folder that this one does not have."""
        for key, answer in others._answers.items():
            if key not in self._answers:
                self.add(key, answer)

    def _lines(self) -> list[str]:
        """Return the lines; end a last one that a kill has cut, so that the next one is apart."""
        if not self._file.exists():
            return []
        text = self._file.read_text(encoding="utf-8", errors="replace")
        if text and not text.endswith("\n"):
            with self._file.open("a", encoding="utf-8") as file:
                file.write("\n")
        return text.split("\n")


def question_key(**question: object) -> str:
    """Return the digest of everything that an answer depends on."""
    return digest_json(question)


def _read(line: str) -> tuple[str, JudgeAnswer] | None:
    """Return key and answer of a line; None for one that a kill has cut."""
    try:
        row = json.loads(line)
        tokens = row["tokens"] and tuple(row["tokens"])
        return row["key"], JudgeAnswer(row["outcome"], row["reason"], tokens)
    except (ValueError, KeyError, TypeError):
        return None
