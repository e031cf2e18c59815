"""The environment of a run: proxies, and a home folder for users without one."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows import environment


@pytest.fixture
def no_proxy(monkeypatch):
    """No proxy in the environment, and nothing noted about one."""
    for name in [*environment.PROXIES, "no_proxy"]:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(environment, "unusable_proxies", {})


def test_local_addresses_are_added_to_those_that_need_no_proxy(no_proxy, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "intra.net, localhost")
    environment.bypass_proxies()
    expected = "intra.net,localhost,127.0.0.1,::1"
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == expected
    assert os.environ["HTTP_PROXY"] == "http://proxy:3128"


def test_without_a_proxy_nothing_is_set(no_proxy):
    environment.bypass_proxies()
    assert "NO_PROXY" not in os.environ and "no_proxy" not in os.environ


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:7890", "socks://127.0.0.1:7891"])
def test_a_proxy_that_httpx_refuses_is_removed_and_named(no_proxy, monkeypatch, value):
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises((ImportError, ValueError)):
        httpx.Client()
    environment.bypass_proxies()
    httpx.Client().close()
    reason = environment.unusable_proxies["ALL_PROXY"]
    assert value.partition(":")[0] in reason and "unset it" in reason


@pytest.mark.parametrize("value", ["http://a:1", "https://a:1", "a:1", "http://user:word@a:1"])
def test_a_proxy_that_httpx_takes_stays(value):
    assert environment.proxy_problem(value) is None


@pytest.fixture
def own_home(monkeypatch):
    monkeypatch.setattr(environment, "replaced_homes", [])
    for name in environment.KEPT:
        monkeypatch.delenv(name, raising=False)


def test_a_home_that_cannot_be_written_is_replaced(own_home, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/dev/null/none")
    environment.provide_home(tmp_path / "home")
    assert Path.home() == tmp_path / "home" and "/dev/null/none" in environment.replaced_homes[0]


def test_a_home_that_can_be_written_stays(own_home, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "not made yet"))
    environment.provide_home(tmp_path / "home")
    assert Path.home() == tmp_path / "not made yet" and not environment.replaced_homes


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_user_without_home_and_name_gets_one_in_the_workspace(tmp_path):
    code = """
import os, sys
from pathlib import Path
from flows import environment
del os.environ["HOME"]
os.setgid(12345)
os.setuid(12345)
environment.replaced_homes.clear()
environment.provide_home(Path(sys.argv[1]))
print(Path.home(), environment.replaced_homes)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "home")], capture_output=True, text=True
    )
    expected = f"{tmp_path / 'home'} ['this user has none']"
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize("name", environment.CACHES)
def test_a_cache_that_cannot_be_written_is_left_out_and_named(own_home, monkeypatch, name):
    for other in environment.CACHES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "/dev/null/cache")
    environment.drop_unusable_caches()
    assert name not in os.environ
    assert environment.replaced_homes == [f"{name}=/dev/null/cache cannot be written"]


def test_a_cache_that_can_be_written_stays(own_home, monkeypatch, tmp_path):
    for name in environment.CACHES:
        monkeypatch.setenv(name, str(tmp_path / "not made yet"))
    environment.drop_unusable_caches()
    assert not environment.replaced_homes
    assert {os.environ[name] for name in environment.CACHES} == {str(tmp_path / "not made yet")}
