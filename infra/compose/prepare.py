"""Make what a new platform lacks: bucket, workers' MLflow account, work pools, device limits.

A second run changes nothing.
"""

import asyncio
import os
from contextlib import suppress

import boto3
from botocore.exceptions import ClientError
from mlflow import MlflowException
from mlflow.server import get_app_client
from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

BUCKET, ACCOUNT, POOLS, DEVICES = (
    "mlflow",
    "pipeline",
    ("rlhf", "rlhf-gpu"),
    ("rlhf-cpu", "rlhf-gpu"),
)


def bucket() -> None:
    """Make the bucket of MLflow's artifacts."""
    store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    try:
        store.head_bucket(Bucket=BUCKET)
    except ClientError as error:
        if error.response["Error"]["Code"] != "404":
            raise
        store.create_bucket(Bucket=BUCKET)


def account() -> None:
    """Make the account under which workers write.

    It manages the experiments and models that it makes, and no others.
    """
    client = get_app_client("basic-auth", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    try:
        client.create_user(ACCOUNT, os.environ["RLHF_ACCOUNT_PASSWORD"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


async def pools() -> None:
    """Make a work pool for CPU machines and one for GPU machines."""
    async with get_client() as client:
        for name in POOLS:
            with suppress(ObjectAlreadyExists):
                await client.create_work_pool(WorkPoolCreate(name=name, type="process"))


async def devices() -> None:
    """Make a limit for each kind of device, which a stage holds while it runs.

    The workers name it in RLHF_DEVICE_LIMITS.
    """
    async with get_client() as client:
        for name in DEVICES:
            try:
                await client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                await client.create_global_concurrency_limit(
                    GlobalConcurrencyLimitCreate(name=name, limit=1)
                )


if __name__ == "__main__":
    bucket()
    account()
    asyncio.run(pools())
    asyncio.run(devices())
    print("bucket, account, work pools and device limits are there")
