"""What the tests of the platforms share."""

import json

import pytest
from servers import serving


@pytest.fixture
def webhook():
    """A server, and the bodies that it was sent."""
    bodies = []

    def answer(handler):
        bodies.append(json.loads(handler.rfile.read(int(handler.headers["Content-Length"]))))
        return 200, {}, b""

    with serving(answer) as server:
        yield server, bodies
