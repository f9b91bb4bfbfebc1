"""Damage to the files of an artifact, as disks, copies and hands do it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Damage:
    """A damage to one file of a folder, which it undoes afterwards."""

    file: Path
    kind: str

    KINDS: ClassVar = ("first", "middle", "last", "bit", "cut", "half", "longer", "emptied", "deleted")

    def __enter__(self):
        content = self.file.read_bytes()
        self.file.with_name(f".{self.file.name}.kept").write_bytes(content)
        damaged = self.of(content)
        if damaged is None:
            self.file.unlink()
        else:
            self.file.write_bytes(damaged)
        return damaged != content

    def __exit__(self, *_):
        shutil.move(self.file.with_name(f".{self.file.name}.kept"), self.file)

    def of(self, content):
        """The content after the damage; None for no file."""
        flips = {
            "first": (0, 255),
            "middle": (len(content) // 2, 255),
            "last": (-1, 255),
            "bit": (len(content) // 3, 1),
        }
        if self.kind in flips:
            where, bits = flips[self.kind]
            flipped = bytearray(content)
            if flipped:
                flipped[where] ^= bits
            return bytes(flipped)
        return {
            "cut": content[:-1],
            "half": content[: len(content) // 2],
            "longer": content + b"\0",
            "emptied": b"",
            "deleted": None,
        }[self.kind]


def files_of(folder):
    """The files that a stage left in a folder, but for hidden ones."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
