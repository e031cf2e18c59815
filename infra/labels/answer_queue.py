r"""Answer a queue of `rlhf label open` on MLflow's own page, by clicks in a headless Chromium.

    .venv/stage/bin/python infra/labels/answer_queue.py ADDRESS \
        [--annotator 1] [--pairs N] [--picture FILE]

ADDRESS is the one that `rlhf label open` printed for a person. The answers are those of one of the
quickstart's simulated annotators (rlhf_core/quickstart/annotators.py), who reads what the page
shows, so that the prompts must be the quickstart's. --pairs: stop after so many (default: all).
--picture: of the first pair once it is answered, before it is submitted. With --pairs 0 nothing is
answered: a picture of any page is taken, after the text --until is seen.
"""

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from browser import Page, open_page

from rlhf_core.quickstart.annotators import ANNOTATORS, preference
from rlhf_core.quickstart.utility import score
from tasks.labels.pages import ANSWERS, BETTER

CHOOSE, SUBMIT = "Select an option", "Submit"
BAD, SLIGHTLY, CLEARLY = -1.0, 0.7, 1.8  # units of true utility: of both replies, of a difference
PATIENCE = 300  # seconds
SHOWN = re.compile(r"(\d+) of (\d+) reviewed")
WORDS = {choice: answer for answer, choice in ANSWERS.items()}


class Pair(NamedTuple):
    """A pair as the page shows it."""

    prompt: str
    replies: tuple[str, str]


def shown_pair(text: str) -> Pair:
    """Return the pair in the text of the page. Raises ValueError where there is none."""
    found = re.search(
        r"View full trace\s+(.+?)\s+Reply 1\s+(.+?)\s+Reply 2\s+(.+?)\s+" + re.escape(BETTER),
        text,
        re.DOTALL,
    )
    if found is None:
        raise ValueError(f"the page shows no pair: {text!r:.300}")
    prompt, one, other = (" ".join(part.split()) for part in found.groups())
    return Pair(prompt, (one, other))


def answer_of(pair: Pair, annotator: int) -> tuple[str, str | None]:
    """Return the answers to the page's two questions; no strength where no reply is better."""
    utilities = score([pair.prompt] * 2, list(pair.replies))
    if max(utilities) < BAD:
        return WORDS["both_bad"], None
    rng = Random(f"{annotator} {pair.prompt} {sorted(pair.replies)}")
    who = ANNOTATORS[annotator - 1]
    first = rng.random() < preference(who, pair.replies, (utilities[0], utilities[1]))
    apart = abs(utilities[0] - utilities[1])
    strength = "slightly" if apart < SLIGHTLY else "clearly" if apart < CLEARLY else "much"
    return WORDS["a" if first else "b"], strength


def next_pair(page: Page, last: Pair | None) -> Pair:
    """Return the pair of the page once it is another than the last one. Raises ValueError."""
    end = time.monotonic() + PATIENCE
    while True:
        page.wait_for(BETTER)
        try:
            if (found := shown_pair(page.text)) != last:
                return found
        except ValueError:  # the page is half drawn
            if time.monotonic() > end:
                raise
        if time.monotonic() > end:
            raise ValueError(f"the page shows the same pair after {PATIENCE} s: {last}")
        time.sleep(0.1)


def answer_queue(page: Page, annotator: int, most: int | None, picture: Path | None) -> int:
    """Answer the pairs of the open queue one after the other; return how many."""
    answered, pair = 0, None
    while most is None or answered < most:
        pair = next_pair(page, pair)
        done, whole = map(int, SHOWN.search(page.text).groups())  # type: ignore[union-attr]
        better, strength = answer_of(pair, annotator)
        page.click(CHOOSE)
        page.click(better)
        if strength:
            page.click(CHOOSE)  # the second question's: the first has an answer now
            page.click(strength)
        page.ready(SUBMIT)  # the page has saved the answers
        if picture and not answered:
            page.picture(picture)
        page.click(SUBMIT)
        page.wait(f"!(document.body?.innerText || '').includes('{done} of {whole} reviewed')")
        answered += 1
        if done + 1 == whole:
            break
    return answered


def main(argv: Sequence[str] | None = None) -> None:
    """Answer a queue, or take a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--annotator", type=int, default=1, choices=range(1, len(ANNOTATORS) + 1))
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--until", help="with --pairs 0: wait for this text")
    parser.add_argument("--size", default="1200x700", help="of the page, in pixels")
    given = parser.parse_args(argv)
    width, height = map(int, given.size.split("x"))
    with open_page(width, height) as page:
        page.visit(given.address)
        if given.pairs == 0:
            page.wait_for(given.until or "")
            page.picture(given.picture)
        else:
            count = answer_queue(page, given.annotator, given.pairs, given.picture)
            print(f"{count} pairs answered by simulated annotator {given.annotator}")


if __name__ == "__main__":
    main()
