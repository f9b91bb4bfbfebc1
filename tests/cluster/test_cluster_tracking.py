"""The tracking server, its database, its backup and the restore of one."""

import secrets
import time
from urllib.request import urlopen

import pytest
from tracking_server import API, FILES, Answer, tracking_server

pytestmark = pytest.mark.timeout(2 * 3600)


@pytest.fixture
def server(cluster, installation):
    with tracking_server(cluster, installation) as found:
        yield found


@pytest.fixture(scope="module")
def model(cluster, installation):
    """The name of a registered model, and a file that was uploaded through the server."""
    name = f"segline-tests-{secrets.token_hex(4)}"
    with tracking_server(cluster, installation) as server:
        server.ask("POST", "registered-models/create", name=name)
        server.send("PUT", f"{FILES}/{name}/weights.bin", name.encode())
    return name


def has(cluster, namespace, model):
    """Return whether the server knows the model and its file."""
    with tracking_server(cluster, namespace) as server:
        if not server.knows(model):
            return False
        assert server.send("GET", f"{FILES}/{model}/weights.bin") == model.encode()
        return True


def run_job(cluster, namespace, cronjob):
    """Run a CronJob once, now, as docs/kubernetes.md does; return the log."""
    name = f"{cronjob}-tests-{int(time.time())}"
    cluster.run("create", "job", f"--from=cronjob/{cronjob}", name, f"--namespace={namespace}")
    try:
        cluster.wait_for_job(name, namespace)
        return cluster.log(f"job/{name}", namespace)
    finally:
        cluster.delete("job", name, f"--namespace={namespace}", wait=False)


def scale(cluster, namespace, count):
    cluster.run("scale", "deployment/mlflow", f"--replicas={count}", f"--namespace={namespace}")
    cluster.wait_for_rollout("deployment", "mlflow", namespace)


def test_the_server_answers_only_to_its_names(server):
    assert server.send("GET", "/health") == b"OK"
    with pytest.raises(Answer) as caught:
        server.send("GET", f"{API}/experiments/search?max_results=1", host="elsewhere.example.org")
    assert caught.value.status == 403


def test_files_pass_through_the_server_to_the_bucket(cluster, installation, model):
    assert has(cluster, installation, model)


def test_the_database_keeps_what_it_had_when_its_pod_is_lost(cluster, installation, own, model):
    cluster.run("delete", "pod", "postgres-0", f"--namespace={installation}")
    cluster.wait_for_rollout("statefulset", "postgres", installation)
    cluster.wait_for_rollout("deployment", "mlflow", installation)
    assert has(cluster, installation, model)


def test_a_backup_is_made_and_counted(cluster, installation, model):
    run_job(cluster, installation, "mlflow-backup")
    listing = ("python", "/opt/segline/mlflow/backup.py", "list")
    names = cluster.run(
        "exec", "deployment/mlflow", "--container=metrics", f"--namespace={installation}", "--", *listing
    )
    assert ".dump" in names

    def look():
        with cluster.forward("service/mlflow", 9100, installation) as address, urlopen(f"{address}/metrics") as answer:
            lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[:1] != "#")
        counted = float(lines.get("segline_mlflow_up", 0)) == 1 and float(lines.get("segline_backups", 0)) >= 1
        return (True if counted else None), str(lines)

    assert cluster.wait("the metrics of the server to count the backup", look, "api")


def test_what_was_backed_up_is_restored(cluster, installation, own, model):
    run_job(cluster, installation, "mlflow-backup")
    with tracking_server(cluster, installation) as server:
        server.ask("DELETE", "registered-models/delete", name=model)
    assert not has(cluster, installation, model)
    try:
        scale(cluster, installation, 0)
        run_job(cluster, installation, "mlflow-restore")
    finally:
        scale(cluster, installation, 1)
    assert has(cluster, installation, model)


def test_a_restore_is_refused_while_the_server_runs(cluster, installation, own, model):
    with pytest.raises(pytest.fail.Exception, match="other connections to the database"):
        run_job(cluster, installation, "mlflow-restore")
    assert has(cluster, installation, model)
