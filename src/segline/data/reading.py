"""The opening of a split, whose folder holds shards of crops or packs of frames."""

from pathlib import Path

from segline.artifacts.dataset import CROPS, pack_files
from segline.data.frames import open_frames
from segline.data.shards import open_crops
from segline.data.split import Split
from segline.errors import StageError


def open_split(dataset_dir: Path, name: str) -> Split:
    """Open a folder of the data set that label wrote, ``train`` or what :func:`split_folder` names.

    Raises:
        StageError: It is missing or incomplete.
    """
    folder = dataset_dir / name
    if name.endswith(CROPS) and not folder.is_dir():
        raise StageError(
            f"{folder} is missing: label writes crops of validation and test only if evaluate.on or train.validate_on "
            "asks for them; run `segline label` again"
        )
    return open_frames(folder) if pack_files(folder) else open_crops(folder)
