"""A DVC repository on a git server with a private authority's certificate, and behind a proxy.

DVC clones with dulwich; of HEAD and of a commit it fetches with libgit2 then, which reads the certificates when it is
imported. Therefore they are taken in a process of their own, as a stage's is.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest
from servers import certificate, git, git_over_http, listening, serving

# DVC's own, of a library of its own.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise:DeprecationWarning")

ASKPASS = Path(__file__).parents[3] / "components" / "images" / "askpass.sh"
LOGIN = {"GIT_ASKPASS": str(ASKPASS), "SEGLINE_GIT_USERNAME": "anna", "SEGLINE_GIT_PASSWORD": "a secret"}
NOWHERE = "http://127.0.0.1:1"
OURS = {"SSL_CERT_FILE", "GIT_SSL_CAINFO", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"}
TAKE = """
import json, sys
from pathlib import Path
from segline.config.loader import load
from segline.data.sources import open_source
from segline.errors import SourceError
params = load(sys.argv[1])
try:
    tree = open_source(params.ingest, params.seed, Path(sys.argv[2])).tree
except SourceError as error:
    sys.exit(str(error))
print(json.dumps({path: tree.read(path).decode() for path in tree.files}))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The port of a git server with TLS and a login, and the file with its certificate."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("hosted")
    folder = root / "repository"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "a.txt").write_text("one", encoding="utf-8")
    git("init", "--quiet", "--initial-branch", "main", cwd=folder)
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("DVC_NO_ANALYTICS", "1")
        changed.setenv("DVC_SITE_CACHE_DIR", str(root / "site"))
        Repo.init(str(folder)).close()
    git("add", ".", cwd=folder)
    git("commit", "--quiet", "-m", "data", cwd=folder)
    path, tls = certificate(root)
    with serving(git_over_http(root, "anna:a secret"), tls) as found:
        yield int(found.address.rpartition(":")[2]), path


@pytest.fixture
def taking(tmp_path):
    """``taking(port, **variables)``: what ingest takes of the repository at localhost, or the line that refuses."""

    def take(port, **variables):
        source = f"dvc://https://localhost:{port}/repository"
        params = json.dumps({"ingest": {"source": source, "dvc": {"path": "data", "revision": "HEAD"}}})
        kept = {name: value for name, value in os.environ.items() if name.upper() not in OURS}
        settings = LOGIN | {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
        words = [sys.executable, "-c", TAKE, params, str(tmp_path / "files")]
        done = subprocess.run(words, env=kept | settings | variables, capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr.splitlines()[-1]

    return take


def _copy(source, target):
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxy_to(port):
    """Run a proxy that connects whoever asks to a port of this machine; yield its address and what it was asked for."""
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self):
            asked.append(self.path)
            with socket.create_connection(("127.0.0.1", port)) as far:
                self.send_response(200)
                self.end_headers()
                back = Thread(target=_copy, args=(far, self.connection))
                back.start()
                _copy(self.connection, far)
                back.join()

        def log_message(self, *_):
            pass

    with listening(Proxy) as own:
        yield f"http://127.0.0.1:{own}", asked


def test_ssl_cert_file_names_the_authority_of_a_git_server(server, taking):
    port, path = server
    assert taking(port, SSL_CERT_FILE=str(path)) == {"a.txt": "one"}


def test_an_authority_that_is_unknown_is_told_with_what_to_set(server, taking):
    port, path = server
    said = taking(port, GIT_SSL_CAINFO=str(path))
    assert "CERTIFICATE_VERIFY_FAILED" in said
    assert "set SSL_CERT_FILE to the file of the authorities that are trusted" in said


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_a_git_server_behind_a_proxy_is_reached(server, taking, name):
    """Nobody listens on the port that the source names."""
    port, path = server
    with proxy_to(port) as (address, asked):
        assert taking(1, SSL_CERT_FILE=str(path), **{name: address}) == {"a.txt": "one"}
    assert set(asked) == {"localhost:1"}


def test_a_proxy_in_lower_case_is_kept(server, taking):
    port, path = server
    with proxy_to(port) as (address, _):
        variables = {"https_proxy": address, "HTTPS_PROXY": NOWHERE}
        assert taking(1, SSL_CERT_FILE=str(path), **variables) == {"a.txt": "one"}


def test_a_git_server_that_needs_no_proxy_is_asked_directly(server, taking):
    port, path = server
    settings = {"SSL_CERT_FILE": str(path), "HTTPS_PROXY": NOWHERE, "NO_PROXY": ".svc,localhost"}
    assert taking(port, **settings) == {"a.txt": "one"}
