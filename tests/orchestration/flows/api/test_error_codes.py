"""Every code of an error has a section in the runbook, and the reverse."""

import pickle
import re
from pathlib import Path

import pytest

from flows.api.error_codes import PACKAGED, coded_sections, error_codes, explain
from rlhf_core import errors

ROOT = Path(__file__).resolve().parents[4]
RUNBOOK = ROOT / "infra" / "docs" / "operate" / "runbook.md"


def raised() -> set[str]:
    """Return the codes that classes and places which raise give."""
    code = re.compile(r'code\s*=\s*"(RLHF-[A-Z]\d{3})"')
    files = [
        path for layer in ("flows", "tasks", "rlhf_core") for path in (ROOT / layer).rglob("*.py")
    ]
    return {found for path in files for found in code.findall(path.read_text(encoding="utf-8"))}


def test_every_code_has_a_section_and_every_section_a_code():
    named = re.findall(r"RLHF-[A-Z]\d{3}\)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    codes = [found.code for found in error_codes()]
    assert set(codes) == raised() == {name.rstrip(")") for name in named}
    assert len(named) == len(codes) == len(set(codes)) >= 15
    assert codes == sorted(codes) and all(found.text and found.exit for found in error_codes())


def test_the_packaged_sections_are_those_of_the_runbook():
    sections = coded_sections(RUNBOOK.read_text(encoding="utf-8"))
    assert PACKAGED.read_text(encoding="utf-8") == sections, "run infra/reference.py"


def test_a_code_is_explained_in_any_spelling():
    found = explain("RLHF-F001")
    assert found == explain("f001") == explain("[RLHF-F001]")
    assert found.exit == "exit 2" and "run directory" in found.text and "#" not in found.text
    with pytest.raises(errors.BadInput, match="no code 'X999'; expected one of RLHF-D001"):
        explain("X999")


def test_a_class_and_a_place_give_a_code_that_survives_a_process():
    assert errors.StageFailed("it ended").code == "RLHF-R001"
    assert errors.PromotionRefused("no").code == errors.BadInput("no").code == ""
    given = errors.BadInput("damaged", code="RLHF-F001")
    copied = pickle.loads(pickle.dumps(given))
    assert (str(copied), copied.code) == ("damaged", "RLHF-F001")


def test_links_of_the_runbook_become_paths_that_are_there():
    """A link beside the runbook leads nowhere on a terminal."""
    assert "](" in PACKAGED.read_text(encoding="utf-8")
    text = "\n".join(found.text for found in error_codes())
    assert "](" not in text and "(gates: infra/docs/concepts/gates.md)" in text
    assert "| the disk is full (infra/docs/operate/runbook.md#the-disk-is-full) |" in text
    pages = re.findall(r"infra/docs/[\w/-]+\.md", text)
    assert len(pages) >= 4 and all((ROOT / page).is_file() for page in pages)
