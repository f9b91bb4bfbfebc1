"""Metrics for Prometheus beside the tracking server: whether it answers, the champions, and the last backup.

The exporter of MLflow needs a package that MLflow does not install, and has no metrics of the registry. A value that
cannot be read is left out, so that an alert on its absence fires.
"""

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from backup import Backups

SERVER = f"http://localhost:{os.environ.get('MLFLOW_PORT', '5000')}"
PORT = int(os.environ.get("METRICS_PORT", "9100"))
TIMEOUT_S = 5


def lines() -> Iterator[str]:
    """Yield the metrics in the text format of Prometheus."""
    begun = time.perf_counter()
    try:
        _get("/health")
        yield "segline_mlflow_up 1"
        yield f"segline_mlflow_health_seconds {time.perf_counter() - begun:.4f}"
        yield from _aliases()
    except OSError:
        yield "segline_mlflow_up 0"
    # boto3 raises errors of many kinds; the next scrape tries again.
    try:
        times = Backups(os.environ["SEGLINE_BACKUPS"]).all().values()
    except Exception as error:
        print(f"metrics: the backups cannot be listed ({error})", flush=True)
    else:
        yield f"segline_backups {len(times)}"
        if times:
            yield f"segline_backup_time_seconds {max(times).timestamp():.0f}"


def _aliases() -> Iterator[str]:
    answer = json.loads(_get("/api/2.0/mlflow/registered-models/search?max_results=1000"))
    for model in answer.get("registered_models", []):
        for entry in model.get("aliases", []):
            labels = f"model={_quoted(model['name'])},alias={_quoted(entry['alias'])}"
            yield f"segline_registry_version{{{labels}}} {entry['version']}"


def _quoted(text: str) -> str:
    """Quote the value of a label for Prometheus, which does not know the escape ``\\u`` of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _get(path: str) -> bytes:
    with urllib.request.urlopen(SERVER + path, timeout=TIMEOUT_S) as answer:
        content: bytes = answer.read()
    return content


class Handler(BaseHTTPRequestHandler):
    """Answers every request with the metrics."""

    def do_GET(self) -> None:
        """Collect the metrics anew for each request: Prometheus scrapes once a minute."""
        body = "".join(f"{line}\n" for line in lines()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: a line for each scrape is not worth it."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
