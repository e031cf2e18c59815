"""A deployment is named with or without its flow; the one that watches its data goes with it."""

from types import SimpleNamespace

import pytest

from flows.schedule.existing import _named
from rlhf_core.errors import BadInput

FOUND = {
    full: SimpleNamespace(name=full.rpartition("/")[2])
    for full in ("rlhf/nightly", "rlhf/weekly", "rlhf-watch/weekly-data")
}


@pytest.mark.parametrize("name", ["weekly", "rlhf/weekly"])
def test_a_deployment_brings_the_one_that_watches_its_data(name):
    assert list(_named(FOUND, name)) == ["rlhf/weekly", "rlhf-watch/weekly-data"]


def test_another_name_is_refused_with_the_names_that_there_are():
    assert list(_named(FOUND, "nightly")) == ["rlhf/nightly"]
    with pytest.raises(BadInput, match=r"no deployment 'week' .* there is rlhf/nightly, rlhf/we"):
        _named(FOUND, "week")
