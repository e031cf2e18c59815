"""A page that a command writes is the old one or the whole new one."""

import os

import pytest

from flows.cli.output import write_page
from rlhf_core.errors import RLHFError


def test_a_kill_while_a_page_is_written_leaves_the_page_before_it(tmp_path, monkeypatch):
    page = write_page(tmp_path / "made" / "page.html", "before")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_page(page, "half")
    assert page.read_text() == "before" and list(page.parent.iterdir()) == [page]


def test_a_page_goes_through_a_link_and_to_a_device(tmp_path):
    (tmp_path / "page.html").write_text("before")
    link = tmp_path / "link.html"
    link.symlink_to("page.html")
    write_page(link, "after")
    assert link.is_symlink() and (tmp_path / "page.html").read_text() == "after"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write_page(fifo, "piped")
    assert os.read(reader, 100) == b"piped"
    os.close(reader)


def test_a_page_over_a_folder_is_refused(tmp_path):
    with pytest.raises(RLHFError, match=r"cannot be written to .* Give another file with --html"):
        write_page(tmp_path, "page")
