"""The lock of a registered model, which whoever registers a version or moves an alias holds meanwhile.

For a local database it is a lock of a file beside it, which the system releases when its holder is killed. On a server,
or in a database with a server, it is a registered model of its own: its name is unique there, so only one process can
create it, by whatever way it reaches the registry. Its holder may be killed, so it is a lease: who waits removes a lock
that has had the same holder for ``LEASE_S``. Clocks of two machines are never compared.
"""

import hashlib
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from segline.errors import TrackingError
from segline.tracking.client import Experiment
from segline.tracking.tags import LOCK_HOLDER

SUFFIX = ".segline-lock"
"""The end of the lock's name, after the name of the model that it locks."""
LEASE_S = 180.0
PATIENCE_S = 900.0
LONGEST_PAUSE_S = 0.4
BUSY = "is locked by another promotion or rollback, which does not end; try again later"


@dataclass(frozen=True)
class HeldLock:
    """A lock that this process took.

    Attributes:
        client: The registry that holds the lock; None for the lock of a file.
        name: The lock's name.
        holder: What its tag says while this process holds it.
    """

    client: MlflowClient | None = None
    name: str = ""
    holder: str = ""

    def check(self) -> None:
        """Do nothing while this process holds the lock.

        Raises:
            TrackingError: It took so long that another process removed the lock.
        """
        if self.client and _holder(self.client, self.name) != self.holder:
            raise TrackingError(f"{self.name} has another holder, as the registry was slow; run the same command again")


@contextmanager
def registry_lock(experiment: Experiment) -> Iterator[HeldLock]:
    """Keep other processes from changing the registered model of an experiment until the block ends.

    Raises:
        TrackingError: Another process holds the lock and does not release it within ``PATIENCE_S``.
    """
    client = experiment.client
    if experiment.database:
        with _file_lock(experiment.database, experiment.name):
            yield HeldLock()
        return
    lock = HeldLock(client, f"{experiment.name}{SUFFIX}", uuid.uuid4().hex)
    _acquire(lock, client)
    try:
        yield lock
    finally:
        with suppress(MlflowException):  # the lease ends without it
            _release(client, lock.name, lock.holder)


@contextmanager
def _file_lock(database: Path, name: str) -> Iterator[None]:
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    try:
        lock = FileLock(database.with_name(f".{database.name}.{digest}.lock")).acquire(timeout=PATIENCE_S)
    except Timeout:
        raise TrackingError(f"{name} in {database} {BUSY}") from None
    with lock:
        yield


def _acquire(lock: HeldLock, client: MlflowClient) -> None:
    """Wait until the lock is this process's own."""
    started = since = time.monotonic()
    seen = ""
    while time.monotonic() - started < PATIENCE_S:
        holder = _holder(client, lock.name)
        if holder is None and _create(client, lock):
            return
        if holder is not None and holder != seen:
            seen, since = holder, time.monotonic()
        if holder == seen and time.monotonic() - since > LEASE_S:
            _release(client, lock.name, seen)
            continue
        time.sleep(random.uniform(0.1, 1) * LONGEST_PAUSE_S)
    raise TrackingError(f"{lock.name} {BUSY}")


def _create(client: MlflowClient, lock: HeldLock) -> bool:
    """Return whether this process could create the lock."""
    try:
        client.create_registered_model(lock.name, tags={LOCK_HOLDER: lock.holder})
    except MlflowException as error:
        # MLflow looks for the model that is in the way, and says so if that was removed meanwhile.
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            raise
        return _holder(client, lock.name) == lock.holder  # a request that was sent twice
    return True


def _holder(client: MlflowClient, name: str) -> str | None:
    """Return what the lock's tag says; None if there is no lock."""
    try:
        return str(client.get_registered_model(name).tags.get(LOCK_HOLDER, ""))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _release(client: MlflowClient, name: str, holder: str) -> None:
    """Remove the lock if it still has this holder."""
    if _holder(client, name) == holder:
        with suppress(MlflowException):  # another process has removed it meanwhile
            client.delete_registered_model(name)
