"""The team's page as HTML: escaped, with landmarks and names, legible in both colour schemes."""

import itertools
import re

import pytest
from team_pages import AT, HOSTILE, empty, filled, read_page

from flows.team.rendering import FOLDER, render

CSS = (FOLDER / "team.css").read_text()
PAGES = {"filled": filled(), "empty": empty()}
# text colour -> the backgrounds on which the page has it
TEXT_ON = {
    "text": ("page", "card", "none-bg"),
    "dim": ("page", "card"),
    "link": ("page", "card"),
    "good": ("good-bg",),
    "bad": ("bad-bg",),
    "warn": ("warn-bg",),
}


def test_what_runs_and_people_have_written_is_text_and_never_a_script():
    html = render(filled(HOSTILE, "javascript:alert(1)"))
    page = read_page(html)
    assert [script.attributes for script in page.all("script")] == [{"src": "team.js", "defer": ""}]
    assert "javascript:" not in html
    assert html.count("&lt;script&gt;alert(") >= 20
    assert HOSTILE in page.all("main")[0].words


def test_only_addresses_of_servers_are_links():
    hrefs = [a.attributes["href"] for a in read_page(render(filled())).all("a")]
    assert set(hrefs) == {
        *("#content", "#champions", "#runs"),
        *("http://127.0.0.1:5000", "http://127.0.0.1:4200", "http://127.0.0.1:5000/#/x"),
    }


@pytest.mark.parametrize("name", PAGES)
def test_the_page_has_landmarks_headings_in_order_and_names_for_all_that_has_one(name):
    page = read_page(render(PAGES[name]))
    (html,) = page.all("html")
    assert html.attributes["lang"] == "en" and page.all("title")[0].words == "RLHF team page"
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(page.all(landmark)) == 1, landmark
    assert page.all("nav")[0].attributes["aria-label"]
    levels = [int(heading.tag[1]) for heading in page.all("h1", "h2", "h3")]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    named = [element.attributes.get("aria-labelledby") for element in page.all("section", "table")]
    assert all(named) and set(named) <= set(ids)
    assert {a.attributes["href"][1:] for a in page.all("a") if a.words.startswith("Skip")} <= {*ids}
    assert all(a.words for a in page.all("a", "button", "th"))
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in render(PAGES[name])
    assert "refresh" not in [meta.attributes.get("http-equiv") for meta in page.all("meta")]


def test_tables_have_headers_and_on_a_narrow_page_each_cell_has_its_columns_name():
    for table in read_page(render(filled())).all("table"):
        (head,), (body,) = table.all("thead"), table.all("tbody")
        columns = [cell.words for cell in head.all("th")]
        assert {cell.attributes["scope"] for cell in head.all("th")} == {"col"}
        for row in body.all("tr"):
            assert row.children[0].tag == "th" and row.children[0].attributes["scope"] == "row"
            assert [cell.attributes["data-label"] for cell in row.children[1:]] == columns[1:]


def test_the_first_stops_of_the_keyboard_are_the_skip_link_the_servers_and_the_pause_button():
    page = read_page(render(filled()))
    stops = [element.words for element in page.all("a", "button")]
    assert stops[:6] == [
        *("Skip to the content", "MLflow", "Prefect", "Champions", "Latest runs"),
        "Pause updates",
    ]
    assert [e.tag for e in page.all() if int(e.attributes.get("tabindex", "0")) > 0] == []
    assert ":focus-visible { outline: 3px solid" in CSS


def test_times_have_their_zone_and_a_form_that_programs_read(monkeypatch):
    times = read_page(render(filled())).all("time")
    assert {time.attributes["datetime"] for time in times} == {AT.isoformat()}
    assert {time.words for time in times} == {AT.astimezone().strftime("%Y-%m-%d %H:%M %Z")}


def test_an_empty_workspace_has_a_sentence_for_every_part():
    words = read_page(render(empty())).words
    for sentence in (
        "Nothing waits for anybody.",
        "No pipeline run is at work.",
        "No platform runs in this workspace.",
        "Nothing is deployed.",
        "No model is champion yet.",
        "No runs here yet.",
    ):
        assert sentence in words


def test_a_part_that_could_not_be_read_says_why():
    problems = [
        p.words for p in read_page(render(filled("why"))).all("p") if "class" in p.attributes
    ]
    assert problems.count("why") >= 3


def schemes() -> dict[str, dict[str, str]]:
    """The colours of the style sheet, light and dark."""
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in (light, dark)]
    assert found[0].keys() == found[1].keys()
    return {"light": found[0], "dark": found[1]}


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_edges_stand_out_in_both_colour_schemes(scheme):
    assert contrast("#000000", "#ffffff") == 21
    colours = schemes()[scheme]
    ratios = {
        (text, behind): contrast(colours[text], colours[behind])
        for text, places in TEXT_ON.items()
        for behind in places
    }
    assert {pair: r for pair, r in ratios.items() if r < 4.5} == {}
    assert min(contrast(colours["edge"], colours[behind]) for behind in ("page", "card")) >= 3
