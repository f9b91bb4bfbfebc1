"""A copy of what trials save, in a bucket: a machine that has lost its disk continues from there."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segline.outputs import write_file
from segline.storage import Bucket


@dataclass(frozen=True)
class Mirror:
    """The files of a grid's trials below ``s3://bucket/prefix``; without a URL there is no copy."""

    url: str

    def fetch(self, folder: Path) -> None:
        """Copy what ``folder`` does not have.

        Raises:
            SourceError: the bucket cannot be listed.
            OSError: an object cannot be read.
        """
        if not self.url:
            return
        bucket = Bucket(self.url)
        for name in bucket.files:
            path = folder / name
            if not path.exists():
                write_file(path, partial(_write, bucket.read(name)))

    def put(self, folder: Path, names: Iterable[str]) -> None:
        """Copy those of a trial's files that are there, in this order.

        Raises:
            SourceError: the bucket is not there or not ours.
            OSError: an object cannot be written.
        """
        for name in names if self.url else ():
            if (folder / name).is_file():
                Bucket(self.url).write(f"{folder.name}/{name}", folder / name)


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)
