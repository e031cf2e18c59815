"""`rlhf sync` without anything to forward."""

import json


def test_sync_with_nothing_to_forward_is_exit_0(rlhf):
    code, out, _ = rlhf("sync", "--json")
    assert code == 0 and json.loads(out) == {"forwarded": [], "waiting": [], "problem": None}
