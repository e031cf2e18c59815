"""`rlhf explain`, and the code at the end of a printed error."""

import json


def test_an_error_ends_with_its_code_which_explain_expands(rlhf, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    code, _, err = rlhf("compare", "latest", "latest~1")
    assert code == 2 and err.endswith("use the workspace's own store. [RLHF-S001]\n")
    code, out, err = rlhf("explain", "RLHF-S001")
    assert code == 0 and err == ""
    assert out.startswith("RLHF-S001: `the MLflow address") and "MLFLOW_TRACKING_URI" in out
    assert json.loads(rlhf("explain", "s001", "--json")[1])["code"] == "RLHF-S001"


def test_without_a_code_all_are_listed_and_another_one_is_bad_input(rlhf):
    code, out, _ = rlhf("explain")
    assert code == 0 and "RLHF-P001  An alias is not where the ledger says\n" in out
    code, _, err = rlhf("explain", "RLHF-Z999")
    assert code == 2 and "no code 'RLHF-Z999'; expected one of" in err and "[" not in err
