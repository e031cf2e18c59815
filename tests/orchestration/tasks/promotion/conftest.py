"""Processes that promote."""

from collections.abc import Iterator

import pytest
from promoters import Promoters


@pytest.fixture(scope="session")
def promoters() -> Iterator[Promoters]:
    started = Promoters()
    yield started
    started.close()
