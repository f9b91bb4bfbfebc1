"""The files that the nodes of a grid share through a bucket: checkpoints, inputs of trials, the request to stop.

A machine that has lost its disk continues from there. The nodes need no common disk: each fetches the files that it
lacks, and so does the driver before it decides by the results of trials that ran elsewhere.
"""

import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from segline.artifacts.bundle import FILE as BUNDLE
from segline.artifacts.candidates import CHECKPOINT, HISTORY, PREVIOUS, TRIAL, WEIGHTS, count_epochs, read_history
from segline.errors import SourceError
from segline.files.atomic import MARK, write_text
from segline.files.locks import machine_lock
from segline.files.paths import safe_path
from segline.files.s3 import SCHEME, Bucket
from segline.files.transfer import download, local_file, matches_etag, origin
from segline.training.last_checkpoint import replace_damaged

STOP = "stop"
"""The file beside the trials that tells them to save themselves and end; the object's name has the driver's id as well.

No trial's name begins like that.
"""
PREPARATION = "preparation.json"
"""The file that makes the folder of a preparation complete."""
POLL_S = 3.0
"""The seconds between two looks for the request to stop in the bucket."""


@dataclass(frozen=True)
class Origins:
    """The addresses from which a node copies the folders and files that a trial reads, if it lacks them."""

    folders: dict[Path, str] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folders: Iterable[Path], files: dict[str, Path]) -> "Origins":
        """Return the origins of those folders and files that were copied from a bucket.

        Args:
            folders: The folders.
            files: The files by the address that the parameters give.
        """
        return cls(
            {folder.resolve(): url for folder in folders if (url := origin(folder))},
            {path: address for address, path in files.items() if address.startswith(SCHEME)},
        )

    def fetch(self) -> None:
        """Copy what this node lacks.

        Raises:
            SourceError: A file cannot be read, or was changed since the run began.
        """
        for folder, url in self.folders.items():
            download(url, folder)
        for path, address in self.files.items():
            with machine_lock(path):
                if not path.is_file() and local_file(address, path.parent) != path:
                    raise SourceError(f"{address} was changed since this run began; run the same command again")


@dataclass(frozen=True)
class CheckpointStore:
    """A copy of the trials' files below ``s3://bucket/prefix``; without a URL there is no copy.

    The prefix ends with the beginning of the run's fingerprint, so equal runs share it; but each driver has an id, and
    stops only its own trials.
    """

    url: str
    keeps_last: bool = False
    """Whether a finished trial keeps its last checkpoint."""
    driver: str = field(default_factory=partial(secrets.token_hex, 8))

    @property
    def stop_key(self) -> str:
        """The name of the object that tells the driver's trials to stop."""
        return f"{STOP}-{self.driver}"

    def fetch(self, work: Path, trial: str = "", *, whole: bool = True, exactly: bool = False) -> None:
        """Copy the files that ``work`` lacks or has of fewer epochs; of a finished trial no checkpoint, unless kept.

        Args:
            work: The folder of all trials.
            trial: The only trial to copy; empty for all.
            whole: Whether to copy also what is needed to train on, not only what decisions and the display need.
            exactly: Whether to make the trial equal to the copy, even if more is here.

        Raises:
            SourceError: The bucket cannot be listed, or an object has a name that leads elsewhere.
            OSError: An object cannot be read.
        """
        if not self.url:
            return
        bucket = Bucket(f"{self.url}/{trial}" if trial else self.url)
        trials: dict[str, dict[str, str]] = {trial: {}} if trial else {}
        for name in bucket.files:
            if not name.startswith(STOP):
                safe_path(work / trial, name, bucket.url)
                folder, _, file = ("", "", name) if trial else name.rpartition("/")
                trials.setdefault(trial or folder, {})[file] = name
        for folder, names in trials.items():
            with machine_lock(work / folder):
                self._fetch(bucket, work / folder, names, whole=whole, exactly=exactly)

    def upload(self, folder: Path, names: Iterable[str]) -> None:
        """Copy those of the named files of a trial's folder that exist, in this order.

        Raises:
            SourceError: The bucket does not exist or denies access.
            OSError: An object cannot be written.
        """
        for name in names if self.url else ():
            if (folder / name).is_file():
                Bucket(self.url).write(f"{folder.name}/{name}", folder / name)

    def open(self, work: Path) -> None:
        """Withdraw an earlier request to stop and fetch what the trials did before; the driver calls this first."""
        (work / STOP).unlink(missing_ok=True)
        self.fetch(work, whole=False)

    @contextmanager
    def stop_on_sigterm(self, work: Path) -> Iterator[None]:
        """Make SIGTERM, a spot node's notice, a request to stop; the object of the request is removed at the end.

        Use it inside of Ray's connection, which has a handler of its own.
        """
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, lambda *_: self.request_stop(work)) if is_main else None
        try:
            yield
        finally:
            if is_main:
                signal.signal(signal.SIGTERM, before)
            if self.url and (work / STOP).exists():
                with suppress(SourceError, OSError):
                    Bucket(self.url).remove(self.stop_key)

    def request_stop(self, work: Path) -> None:
        """Tell the trials to save themselves and end.

        A thread tells the other nodes, because this is called in a signal handler.
        """
        (work / STOP).touch()
        if self.url:
            threading.Thread(target=self._upload_stop, args=(work / STOP,), daemon=True).start()

    def sync_on_start(self, folder: Path, *, rank: int, barrier: Callable[[], None] | None) -> None:
        """Bring the files of a trial to a node that begins to train it.

        Args:
            folder: The trial's folder.
            rank: The rank of this process among those that train the trial.
            barrier: A function that waits for all of them, if there are several; they start with the files of rank 0.
        """
        if not self.url:
            return
        self._claim(folder.parent)
        if rank == 0:
            if (folder / PREVIOUS).is_file():
                replace_damaged(folder)  # before the others get it
            self.fetch(folder.parent, folder.name)
            self.upload(folder, (TRIAL, WEIGHTS, CHECKPOINT, HISTORY, BUNDLE) if barrier else ())
        if barrier:
            barrier()
        if rank:
            self.fetch(folder.parent, folder.name, exactly=True)

    @contextmanager
    def watch_stop(self) -> Iterator[Callable[[], bool]]:
        """Yield a function that says whether the driver, perhaps on another node, has told the trials to stop."""
        requested, ended = threading.Event(), threading.Event()
        if self.url:
            threading.Thread(target=self._poll_stop, args=(requested, ended), daemon=True).start()
        try:
            yield requested.is_set
        finally:
            ended.set()

    def _upload_stop(self, file: Path) -> None:
        with suppress(SourceError, OSError):  # A node that the request does not reach trains on.
            Bucket(self.url).write(self.stop_key, file)

    def _poll_stop(self, requested: threading.Event, ended: threading.Event) -> None:
        while not ended.wait(POLL_S):
            with suppress(SourceError, OSError):
                if Bucket(self.url).exists(self.stop_key):
                    requested.set()

    def _claim(self, work: Path) -> None:
        """Remove what another run left on this node; the driver's own folder has the mark."""
        mark, key = work / MARK, self.url.rpartition("/")[2]
        with machine_lock(work):
            if mark.is_file() and mark.read_text(encoding="utf-8").startswith(key):
                return
            if mark.is_file():
                shutil.rmtree(work)
            work.mkdir(parents=True, exist_ok=True)
            write_text(mark, key)

    def _fetch(self, bucket: Bucket, folder: Path, by_file: dict[str, str], *, whole: bool, exactly: bool) -> None:
        done = count_epochs(bucket.read(by_file[HISTORY]).decode()) if HISTORY in by_file else 0
        is_newer = done > len(read_history(folder))
        unneeded = {PREVIOUS} if self.keeps_last else {CHECKPOINT, PREVIOUS}
        unwanted = unneeded if BUNDLE in by_file else set() if whole else {CHECKPOINT, WEIGHTS}
        outdated = {CHECKPOINT, PREVIOUS, WEIGHTS, HISTORY, BUNDLE} - set(by_file) if exactly else set()
        for file in outdated | (unwanted if is_newer or BUNDLE in by_file else set()):
            (folder / file).unlink(missing_ok=True)
        # The files by which the state of a trial is judged come last.
        for file in sorted(by_file, key=lambda file: (file == BUNDLE, file == HISTORY, file == PREPARATION)):
            path, name = folder / file, by_file[file]
            differs = exactly and not matches_etag(path, bucket.files[name])
            if file not in unwanted and (is_newer or differs or not path.exists()):
                bucket.fetch(name, path)
