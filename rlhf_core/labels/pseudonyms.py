"""Names of annotators in the data: a keyed digest, which only the holder of the key can trace."""

import hashlib
import hmac
from collections.abc import Iterable

from rlhf_core.errors import RLHFError

DIGITS = 10  # hex digits: two of a thousand annotators share a pseudonym once in two million keys


def pseudonyms(names: Iterable[str], key: bytes) -> dict[str, str]:
    """Return the pseudonym of each name: 'annotator-' and digits of HMAC-SHA256(key, name).

    Without the key, a list of names does not tell who is who. With the same key, a person has the
    same pseudonym in every campaign. Raises RLHFError where two names share one.
    """
    found = {
        name: "annotator-"
        + hmac.new(key, name.strip().lower().encode(), hashlib.sha256).hexdigest()[:DIGITS]
        for name in names
    }
    if len(set(found.values())) < len({name.strip().lower() for name in found}):
        raise RLHFError(
            "two annotators have the same pseudonym; expected different ones. Remove the key of the"
            " workspace (labels/key), which makes new ones."
        )
    return found
