"""Real servers on free ports of this machine, and the faults of real servers."""

import base64
import hashlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

PAGE = 7


def free_port():
    """Return a port of this machine on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def s3_process(log):
    """Run moto's S3 server in another process and yield its address. Its listings have pages of PAGE objects."""
    port = free_port()
    words = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            words, env=os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}, stdout=stream, stderr=stream
        )
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_for(port, process):
    for _ in range(2400):
        assert process.poll() is None, "the server ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server does not answer")


@dataclass(frozen=True)
class Refuse:
    """Answer a request with an error."""

    status: int
    code: str = "Faulty"


@dataclass(frozen=True)
class Cut:
    """Send so many bytes of the body, call ``then``, and close the connection."""

    after: int
    then: object = None


@dataclass(frozen=True)
class Whole:
    """Answer with the whole body, as a server does that knows neither Range nor If-Match."""


@dataclass
class Faulty:
    """A server with faults: the first request meets the first fault, and so on; None is a good answer.

    Attributes:
        faults: the faults of the next requests.
        asked: the method, path and Range of every request.
        headers: the headers of the last request.
        address: the URL of the server.
    """

    faults: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    headers: dict = field(default_factory=dict)
    address: str = ""

    @property
    def ranges(self):
        """The first bytes of the requests for a part."""
        return [int(part.removeprefix("bytes=").split("-")[0]) for _, _, part in self.asked if part]


@contextmanager
def serving(answer, tls=None):
    """Run a server and yield its :class:`Faulty`; its good answers are ``answer(handler)`` -> status, headers, body."""
    faulty = Faulty()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_any(self):
            faulty.asked.append((self.command, unquote(self.path), self.headers["Range"]))
            faulty.headers = dict(self.headers)
            fault = faulty.faults.pop(0) if faulty.faults else None
            if isinstance(fault, Refuse):
                self.rfile.read(int(self.headers["Content-Length"] or 0))  # else it would be the next request
                text = f"<Error><Code>{fault.code}</Code><Message>a planned fault</Message></Error>".encode()
                status, headers, body = fault.status, {"Content-Type": "application/xml"}, text
            else:
                if isinstance(fault, Whole):
                    del self.headers["Range"], self.headers["If-Match"], self.headers["If-Range"]
                status, headers, body = answer(self)
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if isinstance(fault, Cut):
                self.wfile.write(body[: fault.after])
                self.wfile.flush()
                if fault.then:
                    fault.then()
                self.close_connection = True
            elif self.command != "HEAD":
                self.wfile.write(body)

        def handle_expect_100(self):
            self.send_response_only(100)
            self.end_headers()
            self.wfile.flush()
            return True

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815 - http.server's own names

        def log_message(self, *_):
            pass

    with listening(Handler, tls) as port:
        faulty.address = f"{'https' if tls else 'http'}://localhost:{port}"
        yield faulty


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client that goes away


@contextmanager
def listening(handler, tls=None):
    """Run a server in a thread until the block ends, and yield its port."""
    server = _Server(("127.0.0.1", 0), handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def running(words, environment, log):
    """Run a command in a process group of its own, which ends with the block."""
    with log.open("a") as stream:
        started = subprocess.Popen(
            words, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield started
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(started.pid, how)
                started.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def forward(address):
    """Return the function that passes requests on to another server."""
    host = urlsplit(address).netloc

    def answer(handler):
        connection = http.client.HTTPConnection(host, timeout=30)
        length = int(handler.headers["Content-Length"] or 0)
        headers = {name: value for name, value in handler.headers.items() if name.lower() != "connection"}
        connection.request(handler.command, handler.path, handler.rfile.read(length), headers)
        response = connection.getresponse()
        body = response.read()
        dropped = ("content-length", "connection", "transfer-encoding", "date", "server")
        passed_on = {name: value for name, value in response.getheaders() if name.lower() not in dropped}
        connection.close()
        return response.status, passed_on, body

    return answer


def from_memory(contents):
    """Return the function that answers as a file server with Range and If-Range; ``contents``: path -> bytes."""

    def answer(handler):
        if handler.path not in contents:
            return 404, {}, b"no such file"
        body = contents[handler.path]
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        part = handler.headers["Range"]
        if not part or handler.headers["If-Range"] not in (None, etag):
            return 200, {"ETag": etag}, body
        begin = int(part.removeprefix("bytes=").rstrip("-"))
        if begin >= len(body):
            return 416, {"Content-Range": f"bytes */{len(body)}"}, b""
        shown = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        return 206, {"ETag": etag, "Content-Range": shown}, body[begin:]

    return answer


def certificate(folder):
    """Make a certificate for localhost; return its PEM file and the context of a server that has it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "localhost.pem"
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(signed.public_bytes(pem) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return path, context


def forget_client():
    """Close this process's client, so that the next request makes another one."""
    from segline.files import s3

    if os.getpid() in s3._CLIENTS:
        s3._CLIENTS.pop(os.getpid()).close()


def git(*words, cwd):
    """Run git as a fixed author, without the settings of this machine, and return its output."""
    who = {f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    clean = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        [shutil.which("git"), *words], cwd=cwd, env=os.environ | who | clean, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def git_over_http(folder, login):
    """Return the function that answers as git's own server; ``login`` is user:password."""
    expected = f"Basic {base64.b64encode(login.encode()).decode()}"

    def answer(handler):
        if handler.headers["Authorization"] != expected:
            return 401, {"WWW-Authenticate": "Basic"}, b""
        url = urlsplit(handler.path)
        variables = {
            "GIT_PROJECT_ROOT": str(folder),
            "GIT_HTTP_EXPORT_ALL": "yes",
            "REQUEST_METHOD": handler.command,
            "PATH_INFO": unquote(url.path),
            "QUERY_STRING": url.query,
            "CONTENT_TYPE": handler.headers["Content-Type"] or "",
        }
        body = handler.rfile.read(int(handler.headers["Content-Length"] or 0))
        done = subprocess.run(["git", "http-backend"], input=body, env=os.environ | variables, capture_output=True)
        head, _, rest = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        return int(headers.pop("Status", "200").split()[0]), headers, rest

    return answer
