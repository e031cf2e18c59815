"""The names of accounts that `rlhf access setup` takes."""

import pytest

from rlhf_core.errors import BadInput
from tasks.access.accounts import Accounts


def accounts(promoter: str, approver: str = "ann", pipeline: str = "pipeline") -> Accounts:
    return Accounts("tiny", pipeline, (promoter,), (approver,))


def test_each_role_has_its_accounts():
    found = accounts("pat", "ann.lee@example.org")
    assert found.of("pipeline") == ("pipeline",)
    assert found.of("promoter") == ("pat",) and found.of("approver") == ("ann.lee@example.org",)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", " pat", "pat:x", "../../x", "pat\n"])
def test_a_name_that_is_no_account_is_refused(name):
    with pytest.raises(BadInput, match="is no name of an account; expected letters"):
        accounts(name)


@pytest.mark.parametrize("name", ["pipeline", "Pipeline", "PIPELINE"])
def test_the_pipelines_account_promotes_under_no_spelling(name):
    with pytest.raises(BadInput, match="both the pipeline's account and a promoter"):
        accounts(name)


@pytest.mark.parametrize(("promoter", "approver"), [("pat", "Pipeline"), ("pat", "Pat")])
def test_two_spellings_of_one_name_are_refused_because_approvals_do_not_tell_them_apart(
    promoter, approver
):
    with pytest.raises(BadInput, match="one name with other capitals"):
        accounts(promoter, approver)
