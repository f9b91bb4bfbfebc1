"""An experiment in a database of the test's own."""

import pytest

from segline.tracking.client import Experiment


@pytest.fixture
def experiment(tracking_uri):
    return Experiment(tracking_uri, "streets")
