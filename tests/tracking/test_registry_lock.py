"""The lock of a registered model, in the registry itself as on a server; races are in tests/stages."""

import threading

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from segline.errors import TrackingError
from segline.tracking import locks
from segline.tracking.client import Experiment
from segline.tracking.locks import registry_lock
from segline.tracking.tags import LOCK_HOLDER

LOCK = "streets.segline-lock"


@pytest.fixture
def client(experiment, monkeypatch):
    """The client of a registry that is no local file to Segline."""
    client = experiment.client
    monkeypatch.setattr(Experiment, "database", None)
    monkeypatch.setattr(locks, "LONGEST_PAUSE_S", 0.02)
    return client


@pytest.mark.parametrize("is_local", [True, False])
def test_one_at_a_time(experiment, client, monkeypatch, is_local):
    if is_local:
        monkeypatch.undo()
    inside, most = [], []

    def work():
        for _ in range(4):
            with registry_lock(experiment):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 12
    assert client.search_registered_models() == []


def test_a_lock_that_was_left_is_removed_and_its_holder_told(experiment, client, monkeypatch):
    monkeypatch.setattr(locks, "LEASE_S", 0.2)
    with registry_lock(experiment) as slow:
        slow.check()
        with registry_lock(experiment) as fast:
            fast.check()
            with pytest.raises(TrackingError, match=r"has another holder.*run the same command again"):
                slow.check()
        assert client.search_registered_models() == []
    with pytest.raises(TrackingError, match="another holder"):
        fast.check()


def test_a_lock_that_changes_hands_is_not_removed(experiment, client, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.5)
    client.create_registered_model(LOCK, tags={LOCK_HOLDER: "another"})
    with pytest.raises(TrackingError, match="is locked by another promotion"), registry_lock(experiment):
        pytest.fail("two hold the lock")
    assert client.get_registered_model(LOCK).tags == {LOCK_HOLDER: "another"}


def test_a_lock_that_is_removed_while_another_is_created_is_tried_again(experiment, client, monkeypatch):
    """MLflow looks for the model that is in the way of the new one, and raises this if it is gone by then."""
    create, calls = type(client).create_registered_model, []

    def in_the_way_and_gone(self, name, **options):
        calls.append(name)
        if len(calls) == 1:
            raise MlflowException(f"Registered Model with name={name} not found", RESOURCE_DOES_NOT_EXIST)
        return create(self, name, **options)

    monkeypatch.setattr(type(client), "create_registered_model", in_the_way_and_gone)
    with registry_lock(experiment) as lock:
        lock.check()
    assert calls == [LOCK, LOCK]


def test_a_creation_that_was_sent_twice_is_ones_own(experiment, client, monkeypatch):
    create = type(client).create_registered_model

    def twice(*words, **options):
        create(*words, **options)
        return create(*words, **options)

    monkeypatch.setattr(type(client), "create_registered_model", twice)
    with registry_lock(experiment) as lock:
        lock.check()
