"""The data set, which label writes: classes, shards of training crops, and packs of whole frames to judge models on.

``train`` holds crops, ``val`` and ``test`` hold frames. ``val_crops`` and ``test_crops`` are there if the parameters
ask to judge on crops.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from segline.artifacts.artifact import Artifact, Record
from segline.classes import LabelClass
from segline.files.atomic import write_json

if TYPE_CHECKING:
    import numpy as np

INFO = "dataset.json"
INDEX = "index.csv"
"""The file of a split with the key, group, corner, scale and class ids of every item."""
CROPS = "_crops"
"""The ending of the folders with crops of validation and test."""
IMAGES, LABELS = "images", "labels"
"""The kinds of shard files of every split; distance maps are further kinds."""


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The description of a labelled data set.

    Attributes:
        classes: The classes, in the order of their ids.
        background: The id that is not foreground, or None.
        crop_size: The height and width of the crops, in px.
        content_hash: The SHA-256 over all shards and packs; equal data and parameters give equal hashes.
        source: The source of the images, as the user gave it.
        source_hash: The content hash of the manifest that the data set was made from.
        source_revision: The source's revision in version control; empty when it is in none.
        pixels: The labelled pixels of each class, by split: of training in its crops, of the others in whole frames.
        test_is_val: Whether the layout has no test split, so that the validation split is tested on.
    """

    classes: tuple[LabelClass, ...]
    background: int | None
    crop_size: tuple[int, int]
    content_hash: str
    source: str
    source_hash: str
    source_revision: str
    pixels: dict[str, list[int]]
    test_is_val: bool

    @property
    def names(self) -> list[str]:
        """The class names, in the order of their ids."""
        return [entry.name for entry in self.classes]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"classes": [entry.to_dict() for entry in self.classes]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "DatasetInfo":
        """Return the inverse of :meth:`to_dict`."""
        classes = tuple(LabelClass.from_dict(entry) for entry in content["classes"])
        return cls(**content | {"classes": classes, "crop_size": tuple(content["crop_size"])})


def describe_size(size: tuple[int, int]) -> str:
    """Return the size of crops for messages, such as ``96`` or ``360 x 480``, height first."""
    height, width = size
    return str(height) if height == width else f"{height} x {width}"


def write_dataset_info(folder: Path, info: DatasetInfo) -> None:
    """Write ``dataset.json`` and the mark into a folder that holds everything else."""
    write_json(folder / INFO, info.to_dict())
    DATASET.write_mark(folder)


def read_dataset_info(folder: Path) -> DatasetInfo:
    """Read ``dataset.json`` from the folder of label.

    Raises:
        StageError: The file is missing or broken, or another version of Segline wrote it.
    """
    DATASET.check_format(folder)
    with DATASET.reading(folder / INFO):
        return DatasetInfo.from_dict(json.loads((folder / INFO).read_text(encoding="utf-8")))


def shard_file(split: Path, kind: str, number: int) -> Path:
    """Return the path of a shard of a split, such as ``images-00000.npy``."""
    return split / f"{kind}-{number:05d}.npy"


def shard_files(split: Path, kind: str = "*") -> list[Path]:
    """Return the paths of the shards of a split, of one kind or of all kinds, in order."""
    return sorted(split.glob(f"{kind}-*.npy"))


def write_shard_head(stream: IO[bytes], kind: "np.dtype[np.generic]", shape: tuple[int, ...]) -> None:
    """Write the head of a shard; NumPy leaves space in it for the first number of the shape to grow."""
    import numpy as np

    head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, head)


def pack_file(split: Path, number: int) -> Path:
    """Return the path of a pack of a split, such as ``frames-00000.pack``."""
    return split / f"frames-{number:05d}.pack"


def pack_files(split: Path) -> list[Path]:
    """Return the paths of the packs of a split, in order."""
    return sorted(split.glob("frames-*.pack"))


def split_folder(split: str, on: str) -> str:
    """Return the folder of the validation or test split in the data set: its ``frames`` or its ``crops``."""
    return f"{split}{CROPS}" if on == "crops" else split


def part_file(split: Path, number: int) -> Path:
    """Return the path of the file that marks a complete shard or pack until all of the split are complete."""
    return split / f"part-{number:05d}.json"


def _metadata(folder: Path) -> Record:
    """Return the classes, the hashes and the origin of the data set."""
    info = read_dataset_info(folder)
    names = ("content_hash", "source", "source_hash", "source_revision", "test_is_val")
    described = {"classes": ", ".join(info.names), "crop_size": describe_size(info.crop_size)}
    return described | {name: getattr(info, name) for name in names}


DATASET = Artifact(
    name="dataset",
    stage="label",
    format=4,
    code=(
        "segline.artifacts.dataset",
        "segline.artifacts.manifest",
        "segline.artifacts.validation",
        "segline.classes",
        "segline.data.boxes",
        "segline.data.class_map",
        "segline.data.crops",
        "segline.data.decoding",
        "segline.data.distances",
        "segline.data.encoding",
        "segline.data.exclusions",
        "segline.data.frames",
        "segline.data.layouts",
        "segline.data.pairs",
        "segline.data.parts",
        "segline.data.reading",
        "segline.data.sampling",
        "segline.data.shards",
        "segline.data.split",
        "segline.data.splits",
        "segline.stages.label",
    ),
    metadata=_metadata,
)
