"""The MLflow server of the installation by its REST API, through a forwarded port."""

import json
import urllib.error
import urllib.request
from contextlib import contextmanager

PORT = 5000
API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


class Answer(Exception):  # noqa: N818 - what the server says
    """An answer that refuses: its status and text."""

    def __init__(self, status, text):
        self.status = status
        super().__init__(f"{status}: {text[:500]}")


class TrackingServer:
    """The server at an address."""

    def __init__(self, address):
        self.address = address

    def send(self, method, path, body=b"", host=f"localhost:{PORT}"):
        """Send a request and return the body of the answer; the server admits only hosts that it knows.

        Raises:
            Answer: The server refuses.
        """
        headers = {"Host": host, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}{path}", method=method, data=body or None, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise Answer(error.code, error.read().decode(errors="replace")) from None

    def ask(self, method, path, **body):
        """Send JSON to a path below the API, and return the answer."""
        return json.loads(self.send(method, f"{API}/{path}", json.dumps(body).encode() if body else b""))

    def knows(self, model):
        """Return whether a model is registered."""
        try:
            self.ask("GET", f"registered-models/get?name={model}")
        except Answer as error:
            if error.status == 404:
                return False
            raise
        return True

    def champion(self, model):
        """Return the version that is champion, or None."""
        try:
            found = self.ask("GET", f"registered-models/alias?name={model}&alias=champion")
        except Answer as error:
            # MLflow answers 404 for an unknown model, and 400 for an unknown alias.
            if error.status == 404 or "alias champion not found" in str(error):
                return None
            raise
        return found["model_version"]["version"]

    def number_of_runs(self, experiment):
        """Return the number of runs in an experiment; 0 if there is no such experiment."""
        try:
            found = self.ask("GET", f"experiments/get-by-name?experiment_name={experiment}")["experiment"]
        except Answer:
            return 0
        runs = self.ask("POST", "runs/search", experiment_ids=[found["experiment_id"]], max_results=1000)
        return len(runs.get("runs", []))


@contextmanager
def tracking_server(cluster, namespace):
    """Forward a port to the server until the block ends."""
    with cluster.forward("service/mlflow", PORT, namespace) as address:
        yield TrackingServer(address)
