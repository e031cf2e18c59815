"""Save and restore MLflow's bucket, for backup.sh and restore.sh.

    objects.py save > FILE.tar
    objects.py restore < FILE.tar

Reads MLFLOW_S3_ENDPOINT_URL and the AWS_... variables. Objects pass through a file on disk, one at
a time.
"""

import os
import shutil
import sys
import tarfile
import tempfile

import boto3

BUCKET = os.environ.get("RLHF_BUCKET", "mlflow")


def save(store) -> None:
    """Write every object to standard output, as a tar file."""
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for page in store.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for item in page.get("Contents", []):
                with tempfile.TemporaryFile() as file:
                    store.download_fileobj(BUCKET, item["Key"], file)
                    entry = tarfile.TarInfo(item["Key"])
                    # the size is the end of the file, not the position of the last write: parts of
                    # a large object arrive in any order
                    entry.size = file.seek(0, os.SEEK_END)
                    entry.mtime = item["LastModified"].timestamp()
                    if entry.size != item["Size"]:
                        sys.exit(
                            f"{item['Key']} has {entry.size} bytes, the store listed"
                            f" {item['Size']}; try again"
                        )
                    file.seek(0)
                    tar.addfile(entry, file)


def restore(store) -> None:
    """Store every object of the tar file on standard input in an empty bucket."""
    if store.list_objects_v2(Bucket=BUCKET, MaxKeys=1).get("KeyCount"):
        sys.exit(f"bucket {BUCKET} is not empty; nothing was changed")
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        for entry in tar:
            if entry.isfile():
                with tempfile.TemporaryFile() as file:
                    shutil.copyfileobj(tar.extractfile(entry), file)
                    file.seek(0)
                    store.upload_fileobj(file, BUCKET, entry.name)


if __name__ == "__main__":
    {"save": save, "restore": restore}[sys.argv[1]](
        boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    )
