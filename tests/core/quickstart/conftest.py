"""The quickstart data of seed 1."""

import pytest

from rlhf_core.quickstart.corpus import corpus


@pytest.fixture(scope="module")
def files():
    return corpus(1, 1)
