"""The connection to a Ray cluster, and the resources that a stage holds there."""

import contextlib
import importlib.util
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from rlhf_core.errors import BadInput, RLHFError, StageFailed
from tasks.execution.ray_cluster.placement import BundleRequest, Host

ADDRESS = "RAY_ADDRESS"
EXTRA = "pip install 'rlhf-pipeline[ray]', or the lock infra/requirements/ray.txt"
START = (
    "This host must be one of the cluster's: start Ray's head with `ray start --head`, and every"
    " other host with `ray start --address=HEAD:6379`."
)
PROBE_SECONDS = 10.0
START_SECONDS = 300.0  # for Ray to start a worker on each host


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Connect this process to the cluster that RAY_ADDRESS names, else to that of this host.

    Raises BadInput without the package, a cluster, or a node of it on this host.
    """
    require_installed()
    import ray

    address = os.environ.get(ADDRESS) or "auto"
    require_answer(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise BadInput(
            f"this process cannot join the Ray cluster at {address}:"
            f" {_first_sentences(error)}. {START} Where the cluster asks for a token, set"
            " RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN here too."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def require_installed() -> None:
    """Raise BadInput when the package is missing."""
    if importlib.util.find_spec("ray") is None:
        raise BadInput(
            f"distributed.launcher is 'ray', and the package ray is not installed in {sys.prefix};"
            f" expected it there, on every host of the cluster. Install it: {EXTRA}."
        )


def hosts() -> list[Host]:
    """Return the hosts of the cluster that are alive."""
    import ray

    return [
        Host(node["NodeManagerAddress"], node["Resources"], node["NodeID"])
        for node in ray.nodes()
        if node["Alive"]
    ]


@contextlib.contextmanager
def reserved(request: BundleRequest, name: str, wait_minutes: float) -> Iterator[Any]:
    """Reserve the bundles, and give them back at the end; yield Ray's placement group.

    It ends with this process too, whatever ends that. Raises BadInput when others hold the
    resources for longer than the wait.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group(request.bundles, strategy=request.strategy, name=name)
    try:
        _wait(group, request, wait_minutes)
        yield group
    finally:
        remove_placement_group(group)


def _wait(group: Any, request: BundleRequest, minutes: float) -> None:
    """Wait until Ray has reserved a placement group. Raises BadInput after the minutes."""
    import ray

    started, told = time.monotonic(), False
    while not group.wait(timeout_seconds=2):
        if time.monotonic() - started > 60 * minutes:
            free = ray.available_resources()
            left = " and ".join(f"{free.get(kind, 0):g} {kind}s" for kind in request.per_rank)
            raise BadInput(
                f"the Ray cluster had no place for {request} within"
                f" distributed.ray.wait_minutes {minutes:g}; {left} are free, others hold the rest"
                " (`ray status` says who). Run again when they are done, or wait longer."
            )
        if not told:
            print(f"ray: waiting for {request}, which others hold", flush=True)
            told = True


def require_answer(address: str) -> None:
    """Raise BadInput where nobody listens at an address: Ray itself would try for long."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise BadInput(
            f"{ADDRESS} is {address!r}; expected HOST:PORT of the cluster's head, as node1:6379."
            f" {START}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise BadInput(
            f"no Ray cluster answers at {address} ({ADDRESS}): {error}; expected the address of a"
            f" cluster's head. {START}"
        ) from None


def unstarted(error: Exception) -> RLHFError:
    """Return why Ray's workers did not start, BadInput where they cannot load this project."""
    if "ModuleNotFoundError" in f"{type(error).__name__} {error}":
        return BadInput(
            f"Ray's workers cannot load this project: {str(error).strip().splitlines()[-1]};"
            f" expected Ray to run in the same environment as {sys.executable}. Start it on every"
            " host with the program `ray` beside that."
        )
    return StageFailed(f"Ray's workers did not start ({type(error).__name__}): {error}")


def _first_sentences(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4]).rstrip(".")
