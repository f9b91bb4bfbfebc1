"""What the nodes of a grid share through a bucket: what trials save, what they read, and when they are to stop.

A machine that has lost its disk continues from there. Nodes need no disk in common: each fetches what it lacks, and so
does the driver before it decides by the files of trials that ran elsewhere.
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

from segline.artifacts.history import HISTORY, TRIAL, count_epochs, read_history
from segline.errors import SourceError
from segline.files.atomic import MARK, write_text
from segline.files.locks import machine_lock
from segline.files.s3 import SCHEME, Bucket
from segline.files.transfer import download, local_file, matches_etag, origin

STOP = "stop"
"""The file beside the trials that tells them to save themselves and end; an object's name has the driver's id as well.

No trial's name begins so.
"""
CHECKPOINT, WEIGHTS, BUNDLE = "last.pt", "weights.safetensors", "model.json"
"""As :mod:`segline.training.engine` and :mod:`segline.inference.bundle` have them, which import torch."""
LOOK_S = 3.0
"""Between looks at the bucket's sign to stop."""


@dataclass(frozen=True)
class Origins:
    """Where a node gets what a trial reads, if it does not have it: folders and files, each with its URL."""

    folders: dict[Path, str] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folders: Iterable[Path], files: dict[str, Path]) -> "Origins":
        """Of those that were copied from a bucket; ``files`` by the place that they were named by."""
        return cls(
            {folder.resolve(): url for folder in folders if (url := origin(folder))},
            {path: place for place, path in files.items() if place.startswith(SCHEME)},
        )

    def bring(self) -> None:
        """Copy what this node lacks.

        Raises:
            SourceError: it cannot be read, or was changed since the run began.
        """
        for folder, url in self.folders.items():
            download(url, folder)
        for path, place in self.files.items():
            with machine_lock(path):
                if not path.is_file() and local_file(place, path.parent) != path:
                    raise SourceError(f"{place} was changed since this run began; run the same command again")


@dataclass(frozen=True)
class Mirror:
    """The files of a grid's trials below ``s3://bucket/prefix``; without a URL there is no copy.

    The prefix ends with the beginning of the run's fingerprint, so equal runs share it; but each driver has an id, and
    stops its own trials alone.
    """

    url: str
    driver: str = field(default_factory=partial(secrets.token_hex, 8))

    @property
    def sign(self) -> str:
        """The object that tells the driver's trials to stop."""
        return f"{STOP}-{self.driver}"

    def fetch(self, work: Path, trial: str = "", *, whole: bool = True, exactly: bool = False) -> None:
        """Copy what ``work`` does not have, or has of fewer epochs; of a trial that is finished no checkpoint.

        Args:
            work: the folder of all trials.
            trial: of one alone.
            whole: also what is needed to train on, not only to decide and to show.
            exactly: make the trial what it is in the bucket, even if more is here.

        Raises:
            SourceError: the bucket cannot be listed.
            OSError: an object cannot be read.
        """
        if not self.url:
            return
        bucket = Bucket(f"{self.url}/{trial}" if trial else self.url)
        trials: dict[str, list[str]] = {trial: []} if trial else {}
        for name in bucket.files:
            if not name.startswith(STOP):
                trials.setdefault(trial or name.rpartition("/")[0], []).append(name)
        for folder, names in trials.items():
            with machine_lock(work / folder):
                _fetch(bucket, work / folder, names, whole=whole, exactly=exactly)

    def put(self, folder: Path, names: Iterable[str]) -> None:
        """Copy those of a trial's files that are there, in this order.

        Raises:
            SourceError: the bucket is not there or not ours.
            OSError: an object cannot be written.
        """
        for name in names if self.url else ():
            if (folder / name).is_file():
                Bucket(self.url).write(f"{folder.name}/{name}", folder / name)

    def open(self, work: Path) -> None:
        """What the driver does at first: nobody is to stop, and what trials did before is here."""
        (work / STOP).unlink(missing_ok=True)
        self.fetch(work, whole=False)

    @contextmanager
    def stopping(self, work: Path) -> Iterator[None]:
        """SIGTERM, a spot node's notice, tells the trials to save themselves and end; no object stays of that.

        Inside of Ray's connection, which has a handler of its own.
        """
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, lambda *_: self.tell(work)) if is_main else None
        try:
            yield
        finally:
            if is_main:
                signal.signal(signal.SIGTERM, before)
            if self.url and (work / STOP).exists():
                with suppress(SourceError, OSError):
                    Bucket(self.url).remove(self.sign)

    def tell(self, work: Path) -> None:
        """Tell the trials to save themselves and end. A thread tells the other nodes: this is a signal's handler."""
        (work / STOP).touch()
        if self.url:
            threading.Thread(target=self._put_sign, args=(work / STOP,), daemon=True).start()

    def join(self, folder: Path, *, rank: int, wait: Callable[[], None] | None) -> None:
        """Bring the files of a trial to a node that begins to train it.

        Args:
            folder: of the trial.
            rank: of this process among those that train it.
            wait: until all of them are here, if there are several; they have to begin alike, with what the first has.
        """
        if not self.url:
            return
        self._claim(folder.parent)
        if rank == 0:
            self.fetch(folder.parent, folder.name)
            self.put(folder, (TRIAL, WEIGHTS, CHECKPOINT, HISTORY, BUNDLE) if wait else ())
        if wait:
            wait()
        if rank:
            self.fetch(folder.parent, folder.name, exactly=True)

    @contextmanager
    def hearing(self) -> Iterator[Callable[[], bool]]:
        """Yield whether the driver, perhaps on another node, has told the trials to stop."""
        told, ended = threading.Event(), threading.Event()
        if self.url:
            threading.Thread(target=self._listen, args=(told, ended), daemon=True).start()
        try:
            yield told.is_set
        finally:
            ended.set()

    def _put_sign(self, file: Path) -> None:
        with suppress(SourceError, OSError):  # who does not hear of it trains on
            Bucket(self.url).write(self.sign, file)

    def _listen(self, told: threading.Event, ended: threading.Event) -> None:
        while not ended.wait(LOOK_S):
            with suppress(SourceError, OSError):
                if Bucket(self.url).exists(self.sign):
                    told.set()

    def _claim(self, work: Path) -> None:
        """Remove what another run left on this node; the driver's own folder has the mark."""
        mark, key = work / MARK, self.url.rpartition("/")[2]
        with machine_lock(work):
            if mark.is_file() and mark.read_text().startswith(key):
                return
            if mark.is_file():
                shutil.rmtree(work)
            work.mkdir(parents=True, exist_ok=True)
            write_text(mark, key)


def _fetch(bucket: Bucket, folder: Path, names: list[str], *, whole: bool, exactly: bool) -> None:
    by_file = {name.rpartition("/")[2]: name for name in names}
    done = count_epochs(bucket.read(by_file[HISTORY]).decode()) if HISTORY in by_file else 0
    is_newer = done > len(read_history(folder))
    unwanted = {CHECKPOINT} if BUNDLE in by_file else set() if whole else {CHECKPOINT, WEIGHTS}
    over = {CHECKPOINT, WEIGHTS, HISTORY, BUNDLE} - set(by_file) if exactly else set()
    for file in over | (unwanted if is_newer or BUNDLE in by_file else set()):
        (folder / file).unlink(missing_ok=True)
    # What a look at the folder goes by comes last.
    for file in sorted(by_file, key=lambda file: (file == BUNDLE, file == HISTORY)):
        path, name = folder / file, by_file[file]
        differs = exactly and not matches_etag(path, bucket.files[name])
        if file not in unwanted and (is_newer or differs or not path.exists()):
            bucket.fetch(name, path)
