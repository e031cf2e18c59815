"""The rights of the roles: the pipeline's and the promoter's models are apart."""

from tasks.access.roles import candidate_models, experiments, grants, promoted_models


def test_pipeline_and_promoter_write_different_models():
    pipeline, promoter, approver = (
        {grant.name: grant.permission for grant in grants("tiny", role)}
        for role in ("pipeline", "promoter", "approver")
    )
    promoted, approvals = experiments("tiny")
    assert set(pipeline) == {*candidate_models("tiny"), approvals}
    assert set(promoter) == {*promoted_models("tiny"), promoted, approvals}
    assert approver == {approvals: "EDIT"}
    ledgers = [pipeline["tiny-candidate-ledger"], promoter["tiny-ledger"], pipeline[approvals]]
    assert ledgers == ["EDIT"] * 3  # nothing is deleted from them
