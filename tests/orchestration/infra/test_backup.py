"""infra/backup.sh and restore.sh bring SQLite files and a real PostgreSQL back, or refuse to."""

import contextlib
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from control_environment import python_of_commands, with_platform
from object_store import object_store
from postgres import postgres

INFRA = Path(__file__).resolve().parents[3] / "infra"


def call(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RLHF_")}
    return subprocess.run(
        [str(INFRA / script), *words], env=kept | environment, capture_output=True, text=True
    )


def saved(folder: Path, **environment: str) -> Path:
    done = call("backup.sh", str(folder), **environment)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def laptop(tmp_path) -> Path:
    home = tmp_path / "home"
    (home / "mlartifacts" / "tiny").mkdir(parents=True)
    (home / "mlartifacts" / "tiny" / "model.safetensors").write_bytes(bytes(range(256)))
    (home / "outbox" / "sent").mkdir(parents=True)
    (home / "outbox" / "sent" / "a.json").write_text("{}")
    (home / "prefect").mkdir()
    (home / "runs" / "sft-0").mkdir(parents=True)
    for name in ("mlflow.db", "prefect/prefect.db"):
        with contextlib.closing(sqlite3.connect(home / name)) as database:
            database.execute("create table t (x)")
            database.execute("insert into t values (1)")
            database.commit()
    return home


def rows(file: Path) -> list:
    with contextlib.closing(sqlite3.connect(file)) as database:
        return database.execute("select x from t order by x").fetchall()


def test_a_laptop_comes_back_as_it_was(laptop, tmp_path):
    backup = saved(tmp_path / "backups", RLHF_HOME=str(laptop))
    assert backup.stat().st_mode & 0o077 == 0
    laptop.rename(tmp_path / "lost")
    assert call("restore.sh", str(backup), RLHF_HOME=str(laptop)).returncode == 0
    for name in ("mlartifacts/tiny/model.safetensors", "outbox/sent/a.json"):
        assert (laptop / name).read_bytes() == (tmp_path / "lost" / name).read_bytes()
    assert rows(laptop / "mlflow.db") == rows(laptop / "prefect" / "prefect.db") == [(1,)]
    assert not (laptop / "runs").exists()


def test_a_database_is_saved_in_one_piece_while_somebody_writes(laptop, tmp_path):
    with contextlib.closing(sqlite3.connect(laptop / "mlflow.db")) as writer:
        writer.execute("pragma journal_mode=wal")
        writer.execute("insert into t values (2)")
        writer.commit()
        writer.execute("insert into t values (3)")  # not committed
        backup = saved(tmp_path / "backups", RLHF_HOME=str(laptop))
    assert rows(backup / "mlflow.db") == [(1,), (2,)]


@pytest.mark.parametrize("file", ["mlflow.db", "artifacts.tar"])
def test_a_damaged_backup_is_refused_before_anything_is_changed(laptop, tmp_path, file):
    backup = saved(tmp_path / "backups", RLHF_HOME=str(laptop))
    data = bytearray((backup / file).read_bytes())
    data[len(data) // 2] ^= 1
    (backup / file).write_bytes(data)
    done = call("restore.sh", str(backup), RLHF_HOME=str(tmp_path / "new"))
    assert done.returncode == 2 and "damaged" in done.stderr and not (tmp_path / "new").exists()


def test_nothing_that_is_there_is_overwritten(laptop, tmp_path):
    backup = saved(tmp_path / "backups", RLHF_HOME=str(laptop))
    (laptop / "mlflow.db").unlink()
    done = call("restore.sh", str(backup), RLHF_HOME=str(laptop))
    assert (
        done.returncode == 2
        and "exists; nothing was changed" in done.stderr
        and not (laptop / "mlflow.db").exists()
    )


def test_a_workspace_without_a_store_is_no_backup(tmp_path):
    done = call("backup.sh", str(tmp_path / "backups"), RLHF_HOME=str(tmp_path))
    assert done.returncode == 2 and "RLHF_HOME" in done.stderr
    assert not [
        path for path in (tmp_path / "backups").iterdir() if not path.name.endswith(".partial")
    ]


def test_a_backup_that_was_cut_off_is_refused(laptop, tmp_path):
    backup = saved(tmp_path / "backups", RLHF_HOME=str(laptop))
    cut = backup.rename(backup.with_name(backup.name + ".partial"))
    assert call("restore.sh", str(cut), RLHF_HOME=str(tmp_path / "new")).returncode == 2


# a server


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    # not below pytest's folder: the account postgres cannot reach it
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, postgres(Path(folder)) as server:
        yield server.variables


@pytest.fixture
def server(cluster, tmp_path) -> dict[str, str]:
    """Make the two databases, empty, with the script that PostgreSQL's image gets from Compose."""
    for service in ("mlflow", "prefect"):
        query(cluster, "postgres", f"drop database if exists {service}")
        query(cluster, "postgres", f"drop role if exists {service}")
        (tmp_path / f"{service}_database_password").write_text(f"it's \\ {service}")
    script = tmp_path / "databases.sh"
    script.write_text(
        (INFRA / "compose" / "databases.sh").read_text().replace("/run/secrets", str(tmp_path))
    )
    subprocess.run(
        ["sh", str(script)], env=os.environ | cluster | {"POSTGRES_USER": "postgres"}, check=True
    )
    return cluster


def query(server: dict[str, str], database: str, text: str, user: str = "postgres") -> list:
    with contextlib.closing(
        psycopg2.connect(host=server["PGHOST"], port=server["PGPORT"], user=user, dbname=database)
    ) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall() if cursor.description else []


@pytest.mark.slow
def test_each_service_owns_its_database_and_cannot_enter_the_others(server):
    query(server, "mlflow", "create table t (x int)", user="mlflow")
    with pytest.raises(psycopg2.OperationalError, match="permission denied"):
        query(server, "mlflow", "select 1", user="prefect")
    with pytest.raises(psycopg2.OperationalError, match="permission denied"):
        query(server, "prefect", "select 1", user="mlflow")


@pytest.mark.slow
def test_a_servers_databases_and_artifacts_come_back_as_they_were(server, tmp_path):
    artifacts = tmp_path / "artifacts"
    (artifacts / "1" / "a").mkdir(parents=True)
    (artifacts / "1" / "a" / "model.safetensors").write_bytes(bytes(range(256)))
    for name in ("mlflow", "prefect"):
        query(server, name, f"create table t (x text); insert into t values ('{name}')", user=name)
    variables = server | {"RLHF_PG": "", "RLHF_ARTIFACTS": str(artifacts)}
    backup = saved(tmp_path / "backups", **variables)

    full = call("restore.sh", str(backup), **variables)
    assert full.returncode == 2 and "holds 1 tables, expected none" in full.stderr

    for name in ("mlflow", "prefect"):
        query(server, name, "drop table t")
    artifacts.rename(tmp_path / "lost")
    done = call("restore.sh", str(backup), **variables)
    assert done.returncode == 0, done.stderr
    for name in ("mlflow", "prefect"):
        assert query(server, name, "select x from t", user=name) == [(name,)]
    assert (artifacts / "1" / "a" / "model.safetensors").read_bytes() == bytes(range(256))


@pytest.mark.slow
def test_the_databases_of_a_local_platform_are_saved_under_their_names(server, tmp_path):
    names = ("rlhf_mlflow", "rlhf_prefect")
    for name in names:
        query(server, "postgres", f"drop database if exists {name}")
        query(server, "postgres", f"create database {name}")
        query(server, name, f"create table t (x text); insert into t values ('{name}')")
    (tmp_path / "mlartifacts").mkdir()
    (tmp_path / "mlartifacts" / "a").write_text("a")
    variables = server | {
        "RLHF_PG": "",
        "RLHF_PG_DATABASES": " ".join(names),
        "RLHF_ARTIFACTS": str(tmp_path / "mlartifacts"),
    }
    backup = saved(tmp_path / "backups", **variables)
    for name in names:
        query(server, name, "drop table t")
    (tmp_path / "mlartifacts" / "a").unlink()
    assert call("restore.sh", str(backup), **variables).returncode == 0
    assert [query(server, name, "select x from t") for name in names] == [
        [(name,)] for name in names
    ]
    assert (tmp_path / "mlartifacts" / "a").read_text() == "a"


@pytest.mark.slow
def test_a_database_that_cannot_be_dumped_leaves_no_finished_backup(server, tmp_path):
    query(server, "postgres", "drop database prefect")
    done = call(
        "backup.sh",
        str(tmp_path / "backups"),
        **server | {"RLHF_PG": "", "RLHF_ARTIFACTS": str(tmp_path)},
    )
    assert done.returncode != 0 and all(
        path.name.endswith(".partial") for path in (tmp_path / "backups").iterdir()
    )


# an object store


@pytest.fixture
def store():
    """Serve two buckets: one is empty.

    The other has an object of several parts, one of a strange name and an empty one.
    """
    large = bytes(range(256)) * 100_000
    buckets = {"mlflow": {"1/a/model.safetensors": large, "1/é b": b"x", "2/empty": b""}, "new": {}}
    with object_store(buckets) as variables:
        yield buckets, variables


def objects(what: str, tar: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = with_platform() | variables
    command = [python_of_commands(), str(INFRA / "objects.py"), what]
    with tar.open("rb" if what == "restore" else "wb") as file:
        given = (
            {"stdin": file, "stdout": subprocess.PIPE} if what == "restore" else {"stdout": file}
        )
        return subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, **given)


def test_a_buckets_objects_come_back_byte_for_byte_and_only_into_an_empty_bucket(store, tmp_path):
    buckets, variables = store
    tar = tmp_path / "objects.tar"
    assert objects("save", tar, **variables).returncode == 0
    done = objects("restore", tar, **variables, RLHF_BUCKET="new")
    assert done.returncode == 0 and buckets["new"] == buckets["mlflow"], done.stderr
    again = objects("restore", tar, **variables, RLHF_BUCKET="new")
    assert again.returncode != 0 and "bucket new is not empty; nothing was changed" in again.stderr


@pytest.mark.slow
def test_backup_and_restore_take_the_artifacts_from_an_object_store(server, store, tmp_path):
    buckets, variables = store
    platform = with_platform()["PYTHONPATH"]
    program = f"env PYTHONPATH={platform} {python_of_commands()} {INFRA / 'objects.py'}"
    environment = server | variables | {"RLHF_PG": "", "RLHF_OBJECTS": program}
    backup = saved(tmp_path / "backups", **environment)
    kept = buckets["mlflow"].copy()
    buckets["mlflow"].clear()
    done = call("restore.sh", str(backup), **environment)
    assert done.returncode == 0 and buckets["mlflow"] == kept, done.stderr
