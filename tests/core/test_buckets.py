"""Addresses of object stores: known schemes, no secrets in them, and which package is missing."""

import logging

import pytest
from aiohttp import ClientResponseError
from botocore.exceptions import NoCredentialsError

from rlhf_core.buckets import (
    file_system,
    is_absent,
    is_address,
    is_refused,
    lacks_credentials,
    reason,
)
from rlhf_core.errors import BadInput


@pytest.mark.parametrize("text", ["s3://b/k", "gs://b", "az://c/k", "file:///disk"])
def test_an_address_has_a_scheme(text):
    assert is_address(text)


@pytest.mark.parametrize("text", ["data/d.jsonl", "org/name", "/disk/d", "package:name", "C:/d"])
def test_a_path_and_a_hub_name_are_no_address(text):
    assert not is_address(text)


def test_an_address_gives_a_file_system_and_a_path(tmp_path):
    (tmp_path / "d.jsonl").write_text("{}")
    files, path = file_system("data", f"file://{tmp_path}/")
    assert path == str(tmp_path) and files.exists(f"{path}/d.jsonl")
    assert file_system("data", "s3://team/rlhf/")[1] == "team/rlhf"


def test_a_scheme_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(BadInput, match=r"data begins with ftp://; expected one of s3://, gs://"):
        file_system("data", "ftp://host/d")


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("az", "adlfs")])
def test_a_missing_package_is_named(scheme, package):
    with pytest.raises(BadInput, match=f"Install it: pip install {package}$"):
        file_system("data", f"{scheme}://bucket/d")


@pytest.mark.parametrize("address", ["s3://key:hush@bucket/d", "s3://hush@bucket", "s3://b:9000/d"])
def test_credentials_in_an_address_are_refused_and_not_printed(address):
    with pytest.raises(BadInput, match="AWS_ACCESS_KEY_ID") as refused:
        file_system("RLHF_REMOTE", address)
    assert "hush" not in str(refused.value)


def test_an_address_without_a_bucket_is_refused():
    with pytest.raises(BadInput, match="expected s3://BUCKET/FOLDER"):
        file_system("data", "s3:///d")


def test_the_reason_of_an_error_is_one_short_line():
    assert reason(OSError("first\nsecond")) == "OSError: first"
    assert len(reason(OSError("x" * 1000))) < 250


def answered(status: int) -> ClientResponseError:
    return ClientResponseError(None, (), status=status)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(), "absent"),
        (answered(404), "absent"),
        (PermissionError(), "refused"),
        (answered(401), "refused"),
        (answered(403), "refused"),
        (OSError("Forbidden: b/team/o\nno right"), "refused"),  # as gcsfs says it
        (NoCredentialsError(), "no credentials"),
        (answered(500), None),
        (ConnectionRefusedError(), None),
        (TimeoutError(), None),
    ],
)
def test_what_a_store_says_is_told_from_one_that_does_not_answer(error, said):
    found = {
        "absent": is_absent(error),
        "refused": is_refused(error),
        "no credentials": lacks_credentials(error),
    }
    assert [name for name, holds in found.items() if holds] == ([said] if said else [])


def test_clients_that_log_every_look_for_credentials_are_silent(tmp_path):
    file_system("data", f"file://{tmp_path}")
    assert not logging.getLogger("gcsfs").isEnabledFor(logging.ERROR)
    assert not logging.getLogger("azure.identity.aio").isEnabledFor(logging.ERROR)
