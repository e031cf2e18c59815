"""Correct the environment of this process and its children: proxies and the home folder."""

import os
import pwd
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

LOCAL = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # as httpx reads them; also in capitals
SCHEMES = ("http", "https")
SOCKS = ("socks5", "socks5h")  # with the package socksio
# what a library reads in the home folder, and the variable that says where it is instead
KEPT = {
    "HF_HOME": ".cache/huggingface",
    "GIT_CONFIG_GLOBAL": ".gitconfig",
    "NETRC": ".netrc",
    "AWS_SHARED_CREDENTIALS_FILE": ".aws/credentials",
}
# variables that name folders of caches alone; what is in them is made again elsewhere
CACHES = ("XDG_CACHE_HOME", "TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT")
# variables of folders that also hold models and data sets, which stay where they are
HUB_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
unusable_proxies: dict[str, str] = {}  # variables that were removed, and why
replaced_homes: list[str] = []  # why the home folder or a cache was replaced; mostly empty


# proxies


def proxies() -> dict[str, str]:
    """Return the variables of the environment that name a proxy."""
    names = [*PROXIES, *(name.upper() for name in PROXIES)]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def bypass_proxies() -> None:
    """Reach this machine without a proxy, and remove proxies of a kind that httpx refuses.

    A run starts servers of its own on 127.0.0.1, which no proxy reaches. httpx, the client of
    Prefect and the hub, raises at any use while a variable names a proxy that it cannot use.
    """
    for name, value in proxies().items():
        if reason := proxy_problem(value):
            unusable_proxies[name] = reason
            del os.environ[name]
    if not proxies():
        return
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    hosts += [host for host in LOCAL if host not in hosts]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


def proxy_problem(value: str) -> str | None:
    """Return why httpx cannot use a proxy's address, or None."""
    scheme = urlsplit(value).scheme.lower() if "://" in value else "http"
    if scheme in SOCKS and find_spec("socksio") is None:
        return f"{scheme}:// needs the package socksio; pip install socksio, or unset it"
    if scheme not in (*SCHEMES, *SOCKS):
        known = ", ".join(f"{name}://" for name in (*SCHEMES, *SOCKS))
        return f"{scheme}:// is not a proxy that httpx knows ({known}); correct it, or unset it"
    return None


# the home folder


def provide_home(substitute: Path) -> None:
    """Make `substitute` the home folder where there is none, or none that can be written.

    torch, vLLM, the hub and Prefect keep caches there. What they only read stays where it is. The
    libraries make the folder when they first write to it.
    """
    home = home_folder()
    if home is not None and is_writable(home):
        return
    for name, place in KEPT.items():
        if home is not None and name not in os.environ and os.access(home / place, os.R_OK):
            os.environ[name] = str(home / place)
    replaced_homes.append(f"{home} cannot be written" if home else "this user has none")
    os.environ["HOME"] = str(substitute)


def drop_unusable_caches() -> None:
    """Remove variables that name a cache which cannot be written; the home folder has one then."""
    for name in CACHES:
        if os.environ.get(name) and not is_writable(Path(os.environ[name])):
            replaced_homes.append(f"{name}={os.environ[name]} cannot be written")
            del os.environ[name]


def unwritable_hub_caches() -> dict[str, str]:
    """Return the variables of the hub's caches that name a folder which cannot be written."""
    named = {name: os.environ[name] for name in HUB_CACHES if os.environ.get(name)}
    return {name: place for name, place in named.items() if not is_writable(Path(place))}


def home_folder() -> Path | None:
    """Return the user's home folder, from HOME or the list of users; None where neither has it."""
    if os.environ.get("HOME"):
        return Path(os.environ["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container's user without a name
        return None


def is_writable(folder: Path) -> bool:
    """Return True when files can be made in a folder, or the folder itself can be made."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:  # a folder above may not be entered, or is a file
        return False
