"""Prefect's global concurrency limits: one run per registry name, one stage per device.

A slot is a lease that a dead process stops renewing: it is free again within LEASE_SECONDS. A
longer outage of Prefect's server does not end a stage, but its devices are not reserved any more
until the stage is over.
"""

import contextlib
import glob
import os
import re
import socket
from collections.abc import Callable, Iterator

import httpx
from prefect import get_client, runtime
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from rlhf_core.errors import StageFailed
from tasks.execution.launcher import has_cuda
from tasks.execution.prefect_server import lasting_server
from tasks.records.run_record import MEMBERSHIP

LEASE_SECONDS = 300.0
NONE = "none"


def device_limits() -> list[str]:
    """Return the names of the limits that a stage of this process holds, one per device.

    These are the names in RLHF_DEVICE_LIMITS (comma-separated; 'none' where a cluster's scheduler
    gives each run devices of its own), else the visible GPUs of this machine, else its CPU.
    """
    if given := os.environ.get("RLHF_DEVICE_LIMITS"):
        return [] if given == NONE else [name.strip() for name in given.split(",") if name.strip()]
    return [f"rlhf-{socket.gethostname()}-{device}" for device in _gpus() or ["cpu"]]


def _gpus() -> list[str]:
    if not has_cuda():
        return []
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [f"gpu-{name.strip()}" for name in visible.split(",")]
    numbers = [re.sub(r"\D", "", name) for name in glob.glob("/dev/nvidia[0-9]*")]
    return [f"gpu-{number}" for number in sorted(numbers, key=int)] or ["gpu-0"]


def model_limit(registry_name: str) -> str:
    """Return the limit that a deployed run of this registry name holds from beginning to end."""
    return f"rlhf-model-{registry_name}"


def create_limits(names: list[str]) -> None:
    """Create the limits that do not exist, with one slot each.

    A limit that somebody has set to another number stays.
    """
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                client.create_global_concurrency_limit(
                    GlobalConcurrencyLimitCreate(name=name, limit=1)
                )


@contextlib.contextmanager
def reserved(names: list[str]) -> Iterator[None]:
    """Hold a slot of each limit; wait until all are free.

    Raises StageFailed when a limit does not exist.
    """
    try:
        slots = concurrency(
            names, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False
        )
        with slots, _outlasting_outages():
            yield
    except ConcurrencySlotAcquisitionError as error:
        missing = " ".join(names)
        raise StageFailed(
            f"Prefect has no concurrency limit for {missing} ({error}), so that another run could"
            " share it. Make it: rlhf up on this machine, or prefect global-concurrency-limit"
            " create NAME --limit 1; or have the worker's RLHF_DEVICE_LIMITS name another one",
            code="RLHF-S005",
        ) from error


@contextlib.contextmanager
def _outlasting_outages() -> Iterator[None]:
    """Wait at the end for a server that is away, as long as every request of a run waits.

    That is PREFECT_CLIENT_MAX_RETRIES. Slots are given back through a new client, and a new client
    gives up at once, which would end the run as crashed.
    """
    with get_client(sync_client=True) as client:
        client.hello()  # only a client that has reached the server waits for it
        try:
            yield
        except Exception:
            with contextlib.suppress(httpx.HTTPError):  # the user needs to know the first error
                client.hello()
            raise
        client.hello()


@contextlib.contextmanager
def model_reserved(registry_name: str) -> Iterator[None]:
    """Make a deployed run wait until no other deployed run works on this registry name.

    A run started by hand does not wait.
    """
    if not runtime.deployment.id:
        yield
        return
    name = model_limit(registry_name)
    create_limits([name])
    with reserved([name]):
        yield


@contextlib.contextmanager
def devices_reserved(before_waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold this process's devices where a Prefect server keeps the limits.

    A sweep's runs share them on purpose (--jobs). before_waiting: called where the devices may be
    another run's for hours.
    """
    names = [] if not lasting_server() or MEMBERSHIP.get() else device_limits()
    if not names:
        yield
        return
    before_waiting()
    # A run by hand needs nothing but a server. Limits that somebody has named exist already, or
    # are a mistake.
    if not runtime.deployment.id and not os.environ.get("RLHF_DEVICE_LIMITS"):
        create_limits(names)
    with reserved(names):
        yield
