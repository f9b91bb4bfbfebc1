"""The tracking server as the manifests run it: on a real PostgreSQL, its files on an S3 server, its backup restored."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from servers import free_port, s3_process, wait_for

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "mlflow"
PASSWORD = "not/a secret"
# Nothing of this machine stands in for a key.
NO_KEY = {"HOME": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"}
PARAMS = {
    "name": "tiny",
    "ingest": {"synthetic": {"drives": 6, "frames_per_drive": 2, "height": 96, "width": 128}},
    "validate": {"max_quarantined_share": 0.5},
    "label": {"crop": 32, "shard_size": 4},
    "train": {
        "models": [{"unet": {"width": 4, "depth": 1}}],
        "losses": ["dice"],
        "epochs": 30,
        "batch_size": 2,
        "learning_rate": 0.02,
    },
    "evaluate": {"pictures": 1},
}


def programs():
    """The folder of PostgreSQL's programs: Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    return folders[-1]


class Postgres:
    """A PostgreSQL server with an empty database ``mlflow`` that the user ``segline`` owns."""

    def __init__(self, port, environment):
        self.port = port
        # What libpq reads, and so what the backup has in its pod.
        names = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "segline", "PGDATABASE": "mlflow"}
        self.environment = environment | names | {"PGPASSWORD": PASSWORD}

    @property
    def uri(self):
        return f"postgresql+psycopg2://segline:not%2Fa%20secret@127.0.0.1:{self.port}/mlflow"

    def wait_until_ready(self):
        """The port is open before the server takes connections."""
        for _ in range(600):
            if subprocess.run(["pg_isready"], env=self.environment, capture_output=True).returncode == 0:
                return
            time.sleep(0.2)
        raise AssertionError("PostgreSQL does not take connections")

    def admin(self, *words):
        """Run a program of PostgreSQL as its administrator."""
        environment = self.environment | {"PGUSER": "postgres", "PGDATABASE": "postgres"}
        subprocess.run(words, env=environment, check=True, capture_output=True, text=True)

    def sql(self, query):
        words = ["psql", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--command", query]
        return subprocess.check_output(words, env=self.environment, text=True).strip()

    def drop(self):
        # A query outlives the client that asked it.
        self.admin("dropdb", "--force", "mlflow")
        self.admin("createdb", "--owner=segline", "mlflow")


@contextmanager
def postgres_process(environment):
    with TemporaryDirectory(prefix="segline-postgres-") as name:
        folder, port = Path(name), free_port()
        (folder / "password").write_text(PASSWORD)
        # It refuses to run as root.
        who = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        if who:
            for path in (folder, folder / "password"):
                shutil.chown(path, who["user"], who["group"])
        made = ["initdb", "--pgdata", folder / "data", "--auth=scram-sha-256", "--username=postgres", "--no-sync"]
        made += ["--pwfile", folder / "password", "--encoding=UTF8", "--locale=C"]
        subprocess.run(made, env=environment, cwd=folder, check=True, capture_output=True, **who)
        words = ["postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"]
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(words, env=environment, cwd=folder, stdout=log, stderr=log, **who)
        try:
            wait_for(port, process)
            server = Postgres(port, environment)
            server.wait_until_ready()
            server.admin("psql", "--command", f"CREATE ROLE segline LOGIN PASSWORD '{PASSWORD}'")
            server.admin("createdb", "--owner=segline", "mlflow")
            yield server
        finally:
            # SIGTERM would wait for clients.
            process.send_signal(signal.SIGINT)
            process.wait(30)


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """The environment of all that run: the bucket, and the programs on the PATH."""
    binaries = programs()
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PG", "MLFLOW_", "RAY_"))}
    folder = tmp_path_factory.mktemp("storage")
    nothing = folder / "nothing"
    nothing.touch()
    with s3_process(folder / "log") as address:
        yield keep | {
            "PATH": f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(nothing),
            "AWS_SHARED_CREDENTIALS_FILE": str(nothing),
            "SEGLINE_BACKUPS": "s3://segline/backups/mlflow",
        }


@pytest.fixture(scope="module")
def bucket(storage):
    """boto3's view of the bucket."""
    import boto3

    names = {"AWS_ACCESS_KEY_ID": "aws_access_key_id", "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key"}
    keys = {argument: storage[name] for name, argument in names.items()}
    found = boto3.session.Session(region_name="us-east-1", **keys).resource(
        "s3", endpoint_url=storage["AWS_ENDPOINT_URL"]
    )
    yield found.create_bucket(Bucket="segline")
    found.meta.client.close()


@pytest.fixture(scope="module")
def one_postgres(storage, bucket):
    with postgres_process(storage) as server:
        yield server


@pytest.fixture
def postgres(one_postgres, bucket):
    one_postgres.drop()
    bucket.objects.filter(Prefix="backups/").delete()
    return one_postgres


def backup(postgres, *words, **changes):
    """Run mlflow/backup.py; returns its exit code, what it said and what it complained of."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "backup.py", *words],
        env=postgres.environment | changes,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def names(bucket):
    return [entry.key for entry in bucket.objects.filter(Prefix="backups/")]


def fill(postgres, rows):
    values = ", ".join(f"({number}, 'run {number}')" for number in range(rows))
    postgres.sql(f"CREATE TABLE runs (id int PRIMARY KEY, name text); INSERT INTO runs VALUES {values}")


def test_what_was_dropped_comes_back(postgres, bucket):
    fill(postgres, 100)
    code, said, _ = backup(postgres, "save")
    assert (code, [said.replace("saved ", "backups/mlflow/")]) == (0, names(bucket))
    postgres.drop()
    assert backup(postgres, "restore") == (0, said.replace("saved", "restored"), "")
    assert postgres.sql("SELECT count(*), max(name) FROM runs") == "100|run 99"


def test_a_restore_leaves_nothing_of_what_was_there(postgres):
    fill(postgres, 3)
    backup(postgres, "save")
    postgres.sql("CREATE TABLE of_a_newer_version (id int); DELETE FROM runs")
    assert backup(postgres, "restore")[0] == 0
    assert postgres.sql("SELECT count(*) FROM runs") == "3"
    assert postgres.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == "runs"


def test_the_one_that_is_named_comes_back_and_the_oldest_go(postgres, bucket):
    postgres.sql("CREATE TABLE runs (id int)")
    made = []
    for number in range(4):
        postgres.sql(f"INSERT INTO runs VALUES ({number})")
        made.append(backup(postgres, "save", "--keep", "3")[1].removeprefix("saved "))
    assert backup(postgres, "list") == (0, "\n".join(made[1:]), "")
    assert len(names(bucket)) == 3
    assert backup(postgres, "restore", made[2])[0] == 0
    assert postgres.sql("SELECT count(*) FROM runs") == "3"
    code, _, complaint = backup(postgres, "restore", made[0])
    assert code == 1
    assert f"no backup {made[0]}; known are {made[1]}, {made[2]}" in complaint


def test_a_dump_that_fails_leaves_no_backup_and_deletes_none(postgres, bucket):
    fill(postgres, 3)
    backup(postgres, "save")
    before = names(bucket)
    code, _, complaint = backup(postgres, "save", "--keep", "1", PGPASSWORD="wrong")
    assert code == 1
    assert complaint.endswith("backup: pg_dump failed")
    assert names(bucket) == before


def test_a_broken_backup_changes_nothing(postgres, bucket):
    fill(postgres, 3)
    backup(postgres, "save")
    (name,) = names(bucket)
    whole = bucket.Object(name).get()["Body"].read()
    bucket.put_object(Key=name, Body=whole[: len(whole) - 20])
    code, _, complaint = backup(postgres, "restore")
    assert code == 1
    assert complaint.endswith("failed")
    assert postgres.sql("SELECT count(*) FROM runs") == "3"


def test_nothing_is_restored_under_a_running_server(postgres):
    fill(postgres, 3)
    backup(postgres, "save")
    words = ["psql", "--quiet", "--command", "SELECT pg_sleep(60)"]
    with subprocess.Popen(words, env=postgres.environment, stdout=subprocess.DEVNULL) as other:
        while postgres.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)'") != "1":
            time.sleep(0.05)
        code, _, complaint = backup(postgres, "restore")
        other.kill()
    assert (code, complaint) == (1, "backup: other connections to the database: 1; stop the tracking server first")


def test_without_a_backup_nothing_is_restored(postgres):
    assert backup(postgres, "restore") == (1, "", "backup: no backup in s3://segline/backups/mlflow/")


def test_the_folder_does_not_hide_the_package():
    assert not list(SCRIPTS.rglob("__init__.py"))


@pytest.mark.parametrize("name", ["MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"])
def test_the_server_names_what_it_lacks(name):
    settings = {"MLFLOW_BACKEND_STORE_URI": "sqlite://", "MLFLOW_ARTIFACTS_DESTINATION": "s3://segline/mlflow"}
    del settings[name]
    environment = {"PATH": os.environ["PATH"]} | settings
    done = subprocess.run(["sh", SCRIPTS / "serve.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert name in done.stderr


def test_the_server_does_not_start_without_a_key():
    """It would, and answer every file with a status 500 and no reason."""
    settings = {"MLFLOW_BACKEND_STORE_URI": "sqlite://", "MLFLOW_ARTIFACTS_DESTINATION": "s3://segline/mlflow"}
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **NO_KEY, **settings}
    done = subprocess.run(["sh", SCRIPTS / "serve.sh"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "no key for s3://segline/mlflow" in line
    assert "segline-mlflow-s3" in line


def test_a_backup_without_a_key_says_so_in_one_line(postgres):
    fill(postgres, 3)
    without = {name: value for name, value in postgres.environment.items() if not name.startswith("AWS_ACCESS_KEY")}
    del without["AWS_SECRET_ACCESS_KEY"]
    for words in (["save"], ["restore"], ["list"]):
        done = subprocess.run(
            [sys.executable, SCRIPTS / "backup.py", *words], env=without | NO_KEY, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stderr.splitlines() == ["backup: s3://segline/backups/mlflow: Unable to locate credentials"]


def settings_of_the_pod():
    """The environment of the server's container, but for what comes from secrets."""
    deployment, _ = yaml.safe_load_all((ROOT / "k8s" / "base" / "mlflow.yaml").read_text())
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    settings, _ = yaml.safe_load((ROOT / "k8s" / "base" / "kustomization.yaml").read_text())["configMapGenerator"]
    literals = dict(literal.split("=", 1) for literal in settings["literals"])
    return literals | {entry["name"]: entry["value"] for entry in environment if "value" in entry}


@contextmanager
def mlflow_process(postgres, folder, uri=""):
    """mlflow/serve.sh with the settings of the manifests, on a port of its own; yields its address."""
    port = free_port()
    changed = {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": str(port), "HOME": str(folder)}
    environment = postgres.environment | settings_of_the_pod() | changed
    environment["MLFLOW_SERVER_ALLOWED_HOSTS"] += f",127.0.0.1:{port},localhost:{port}"
    environment["MLFLOW_BACKEND_STORE_URI"] = uri or postgres.uri
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(["sh", SCRIPTS / "serve.sh"], env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for_health(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def wait_for_health(address, process):
    for _ in range(1200):
        assert process.poll() is None, "the server ended; its log is beside it"
        try:
            answer(f"{address}/health")
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def answer(url, host=None):
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def metrics(postgres, address):
    """What mlflow/metrics.py answers beside that server."""
    ports = {"MLFLOW_PORT": address.rpartition(":")[2], "METRICS_PORT": str(free_port())}
    process = subprocess.Popen([sys.executable, SCRIPTS / "metrics.py"], env=postgres.environment | ports)
    try:
        wait_for(int(ports["METRICS_PORT"]), process)
        text = answer(f"http://127.0.0.1:{ports['METRICS_PORT']}/metrics")[1]
    finally:
        process.terminate()
        process.wait(10)
    return dict(line.rsplit(" ", 1) for line in text.splitlines())


def segline(stage, address, folder):
    start = "import sys; from segline.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", start, stage, "--params", json.dumps(PARAMS), "--out", f"data/{stage}"]
    keep = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_", "RAY_", "DVC_"))
    }
    subprocess.run(words, cwd=folder, env=keep | {"MLFLOW_TRACKING_URI": address}, check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_champion_is_made_on_it_and_outlives_its_database(postgres, bucket, tmp_path):
    """Train and promote know of the server only its address: no key of the bucket, no password of the database."""
    (tmp_path / "server").mkdir()
    with mlflow_process(postgres, tmp_path / "server") as address:
        search = f"{address}/api/2.0/mlflow/registered-models/search"
        assert answer(search, host="evil.example.org")[0] == 403
        for host in settings_of_the_pod()["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","):
            assert answer(search, host=host)[0] == 200, host
        for stage in ("ingest", "validate", "label", "train", "evaluate", "ensemble", "promote"):
            segline(stage, address, tmp_path)
        before = answer(f"{address}/api/2.0/mlflow/registered-models/get?name=tiny")
        found = metrics(postgres, address)
    assert json.loads((tmp_path / "data/promote/decision.json").read_text())["promoted"]
    assert (found["segline_mlflow_up"], found["segline_backups"]) == ("1", "0")
    assert found['segline_registry_version{model="tiny",alias="champion"}'] == "1"
    files = {entry.key for entry in bucket.objects.filter(Prefix="mlflow/")}
    assert any(key.endswith("weights.safetensors") for key in files)

    assert backup(postgres, "save")[0] == 0
    postgres.drop()
    assert backup(postgres, "restore")[0] == 0
    # Nothing is to be done to tables of this version, and nothing breaks.
    environment = postgres.environment | {"MLFLOW_BACKEND_STORE_URI": postgres.uri}
    subprocess.run(["sh", SCRIPTS / "serve.sh", "upgrade"], env=environment, check=True, capture_output=True)
    with mlflow_process(postgres, tmp_path / "server") as address:
        assert answer(f"{address}/api/2.0/mlflow/registered-models/get?name=tiny") == before
        champion = download(address, tmp_path)
        found = metrics(postgres, address)
    assert sorted(path.name for path in champion.rglob("*.safetensors"))
    assert found["segline_backups"] == "1"
    assert time.time() - 900 < int(found["segline_backup_time_seconds"]) <= time.time() + 1


def test_files_go_through_the_server(postgres, bucket, tmp_path, tracking_uri):
    """A client may have no way to the bucket; MLflow's own would fetch them by signed addresses of it.

    On a database that has its tables: PostgreSQL's take ten seconds, and files are no matter of it.
    """
    (tmp_path / "file").write_text("kept")
    code = (
        "import sys; from pathlib import Path; from segline.tracking.client import Experiment\n"
        "from segline.tracking.runs import log_artifact, start_run\n"
        "experiment = Experiment(sys.argv[1], 'tiny'); run = start_run(experiment, 'key', 'name', {}, {})\n"
        "log_artifact(experiment, run, Path('file')); experiment.client.download_artifacts(run, 'file', 'back')\n"
    )
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    (tmp_path / "back").mkdir()
    with mlflow_process(postgres, tmp_path, tracking_uri) as address:
        subprocess.run([sys.executable, "-c", code, address], cwd=tmp_path, env=keep, check=True)
    assert (tmp_path / "back" / "file").read_text() == "kept"
    log = (tmp_path / "log").read_text()
    assert log.count("/api/2.0/mlflow-artifacts/artifacts/") >= 2
    assert "presigned" not in log


def download(address, folder):
    """The champion's files, by an MLflow client of its own."""
    code = "import sys, mlflow; mlflow.artifacts.download_artifacts('models:/tiny@champion', dst_path=sys.argv[1])"
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    where = folder / "champion"
    environment = keep | {"MLFLOW_TRACKING_URI": address}
    subprocess.run([sys.executable, "-c", code, where], env=environment, check=True, capture_output=True)
    return where


def test_a_name_beyond_ascii_is_told_as_prometheus_takes_it(monkeypatch):
    """It knows the escapes of a backslash, a quote and a newline, and refuses all of an answer for another one."""
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("metrics")
    try:
        assert module._quoted('straße "1" \\') == '"straße \\"1\\" \\\\"'
    finally:
        del sys.modules["metrics"]


def test_metrics_tell_that_the_server_is_away(postgres):
    found = metrics(postgres, f"http://127.0.0.1:{free_port()}")
    assert found == {"segline_mlflow_up": "0", "segline_backups": "0"}


def test_metrics_leave_out_what_the_bucket_does_not_tell(postgres, monkeypatch):
    monkeypatch.setitem(postgres.environment, "SEGLINE_BACKUPS", "s3://of-nobody/backups")
    assert metrics(postgres, f"http://127.0.0.1:{free_port()}") == {"segline_mlflow_up": "0"}
