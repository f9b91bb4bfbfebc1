"""A webhook that fails in any way is named in a line, which holds nothing of its address, and nothing is raised."""

import socket
import time
from contextlib import contextmanager, suppress
from threading import Thread

import pytest
from servers import certificate, serving

from segline.platforms import webhooks
from segline.platforms.webhooks import post

OUTCOME = {"run": "run-1", "state": "FAILED", "error": "ü"}
SECRET = "T0K3N"


def failure(address):
    said = post(address, OUTCOME)
    assert len(said.splitlines()) == 1
    assert "SEGLINE_WEBHOOK" in said
    assert SECRET not in said
    return said


@pytest.mark.parametrize(
    "address",
    [
        f"hooks.example.org/{SECRET}",
        f"/{SECRET}",
        f"https:/{SECRET}",
        f"https:///{SECRET}",
        f"https://hooks.example.org/a {SECRET}",
        f"https://hooks.example.org/a\n{SECRET}",
        f"https://hooks.example.org/ü{SECRET}",
        f"https://hooks.example.org:{SECRET}/",
        f"https://[{SECRET}/",
        f"https://user:{SECRET}@hooks.example.org/",
        f"ftp://hooks.example.org/{SECRET}",
        f"file:///etc/{SECRET}",
        f"javascript:{SECRET}",
        f"https://.{SECRET}..example/",
        f"https://{'a' * 70}.{SECRET}/",
        f"http://127.0.0.1:1/{SECRET}?key={SECRET}",
        f"http://127.0.0.1:0/{SECRET}",
    ],
)
def test_an_address_that_is_none_is_one_line_without_it(address):
    assert failure(address)


@pytest.mark.parametrize("around", ["{}", "{}\n", " {} "])
def test_a_good_server_gets_the_record(around):
    bodies = []

    def answer(handler):
        bodies.append(handler.rfile.read(int(handler.headers["Content-Length"])))
        return 204, {}, b""

    with serving(answer) as server:
        assert post(around.format(f"{server.address}/{SECRET}"), OUTCOME) == ""
    assert bodies == [b'{"run": "run-1", "state": "FAILED", "error": "\\u00fc"}']


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 400, 404, 429, 500, 599])
def test_a_refusal_and_a_redirect_are_named_by_their_number(status):
    with serving(lambda _: (status, {"Location": f"/{SECRET}"}, b"no")) as server:
        assert f"answered {status}" in failure(f"{server.address}/{SECRET}")
        assert [method for method, _, _ in server.asked] == ["POST"]


@contextmanager
def raw_server(answer):
    """Serve one connection with a function of its socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # the client has gone
                answer(connection)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/{SECRET}"
        thread.join(10)


def forever(text, pause_s=0.0):
    def answer(connection):
        end = time.monotonic() + 1
        while time.monotonic() < end:
            connection.sendall(text)
            time.sleep(pause_s)

    return answer


ODD = {
    "nothing": lambda connection: connection.recv(10),
    "no status": lambda connection: connection.sendall(f"{SECRET}\r\n\r\n".encode()),
    "a bad status": lambda connection: connection.sendall(f"HTTP/1.1 {SECRET} no\r\n\r\n".encode()),
    "bytes": lambda connection: connection.sendall(bytes(range(256)) * 50),
    "a long status": lambda connection: connection.sendall(b"HTTP/1.1 200 " + b"x" * 200_000 + b"\r\n\r\n"),
    "a long header": lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000 + b"\r\n\r\n"),
    "many headers": lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n"),
    "silence": lambda connection: time.sleep(1),
    "drops": forever(b"H", 0.1),
    "always 100": forever(b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "headers without end": forever(b"A: b\r\n", 0.05),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_odd_answer_is_one_line(name, monkeypatch):
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(webhooks, "DEADLINE_S", 0.5)
    with raw_server(ODD[name]) as address:
        start = time.monotonic()
        assert failure(address)
        assert time.monotonic() - start < 60


def test_a_huge_answer_is_not_read(monkeypatch):
    def answer(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        forever(b"x" * 65536)(connection)

    with raw_server(answer) as address:
        assert post(address, OUTCOME) == ""


def test_a_certificate_that_is_not_trusted_is_named(tmp_path, monkeypatch):
    _, context = certificate(tmp_path)
    with serving(lambda _: (200, {}, b""), context) as server:
        assert "certificate" in failure(f"{server.address}/{SECRET}")
