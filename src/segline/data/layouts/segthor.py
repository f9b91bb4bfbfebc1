"""SegTHOR (Lambert et al., IPTA 2020): CT of the chest, ``train/Patient_<n>/Patient_<n>.nii.gz`` with ``GT.nii.gz``.

A volume is cut into its axial slices, counted from the feet; only these have square pixels. They have the radiological
orientation: the chest is up and the patient's right side is on the left. The window converts Hounsfield units to gray.
A patient is a group. Patients in ``test`` without a label map, as in the release, are left out.
"""

import gzip
import io
import threading
import zlib
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segline.classes import LabelClass
from segline.config.fields import Range, Unit
from segline.data.boxes import Box
from segline.data.layouts.layout import LabelSpec, Layout, Pair, build_lut, by_name, under
from segline.errors import DataError
from segline.files.trees import Tree

CLASSES = (
    LabelClass("background", (0, 0, 0)),
    LabelClass("esophagus", (240, 228, 66)),
    LabelClass("heart", (213, 94, 0)),
    LabelClass("trachea", (86, 180, 233)),
    LabelClass("aorta", (204, 121, 167)),
)
ENDINGS = (".nii", ".nii.gz")
LABEL = "GT"
HEADER = 348
# More bytes than a compressed header can have, including the file name in it.
HEAD = 4096
# The image and the label map of the current patient and of the next one; about 100 MB each.
VOLUMES = 4

_lock = threading.Lock()


class Geometry(NamedTuple):
    """The geometry of a volume."""

    shape: tuple[int, ...]
    """The sizes towards the patient's right, front and head."""
    axes: str
    """The directions of the file's own axes, such as ``LPS``."""


def segthor(
    *,
    level: Annotated[int, Range(-2000, 4000), Unit("HU"), "the value that becomes middle gray"] = 40,
    window: Annotated[int, Range(1, 8000), Unit("HU"), "the range from black to white"] = 400,
) -> Layout:
    """Return the layout of SegTHOR."""

    def read_image(
        tree: Tree, path: str, slice_index: int, *, box: Box | None = None, reduce: int = 1
    ) -> NDArray[np.uint8]:
        gray = Image.fromarray(_gray(_slice(tree, path, slice_index), level, window)).reduce(reduce)
        top, left, height, width = box or Box(0, 0, gray.height, gray.width)
        return np.stack([np.asarray(gray)[top : top + height, left : left + width]] * 3, axis=2)

    lut = build_lut((index, index) for index in range(len(CLASSES)))
    return Layout(
        find=find_pairs, legend=lambda _: LabelSpec(CLASSES, 0, lut), read_image=read_image, read_label=read_label
    )


def find_pairs(tree: Tree) -> list[Pair]:
    """Return every slice of every patient; a patient whose volumes have no readable header becomes one slice."""
    volumes = [PurePosixPath(path) for path in under(tree, "", *ENDINGS)]
    scans = [path for path in volumes if _bare(path) == path.parent.name]
    labels = [path for path in volumes if _bare(path) == LABEL]
    if not scans or not labels:
        raise DataError(
            f"{tree.where}: no Patient_01/Patient_01.nii.gz with {LABEL}.nii.gz; expected the segthor layout"
        )
    image_of, label_of = (by_name(tree, map(str, paths), lambda path: path.parent.name) for paths in (scans, labels))
    pairs = [
        pair
        for patient in image_of.keys() | label_of.keys()
        for pair in _of_patient(tree, patient, image_of.get(patient, ""), label_of.get(patient, ""))
    ]
    return sorted(pairs, key=lambda pair: pair.key)


def _of_patient(tree: Tree, patient: str, image: str, label: str) -> list[Pair]:
    known = {path: geometry for path in (image, label) if path and (geometry := _geometry(tree, path))}
    if len(set(known.values())) > 1:
        raise DataError(
            f"{tree.where}: {image} is {_size(known[image])}, {label} is {_size(known[label])}; correct one or "
            "remove both"
        )
    slices = next((geometry.shape[2] for geometry in known.values()), 1)
    of_test = PurePosixPath(image or label).parent.parent.name == "test"
    if of_test and not label:
        return []
    split = "test" if of_test else ""
    return [
        Pair(f"{patient}_{slice_index:03d}", image, label, patient, split, slice_index=slice_index)
        for slice_index in range(slices)
    ]


def read_label(tree: Tree, path: str, slice_index: int) -> NDArray[np.integer]:
    """Read a slice of a label map; raises OSError."""
    values = _slice(tree, path, slice_index)
    if np.any((values < 0) | (values > 65535) | (values % 1 != 0)):
        raise OSError("the label map has values that are not whole numbers of 0 to 65535")
    return values.astype(np.uint8 if values.dtype == np.uint8 else np.uint16)


def _slice(tree: Tree, path: str, slice_index: int) -> NDArray[Any]:
    """Return an axial slice in radiological orientation."""
    with _lock:
        volume = _volume(tree, path)
    if slice_index >= volume.shape[2]:
        raise OSError(f"the volume has {volume.shape[2]} slices, none with the number {slice_index}")
    return volume[::-1, ::-1, slice_index].T


@lru_cache(maxsize=VOLUMES)
def _volume(tree: Tree, path: str) -> NDArray[Any]:
    """Return the values of a volume along the axes of :class:`Geometry`; raises OSError when it cannot be read."""
    from nibabel.orientations import apply_orientation, io_orientation

    data = tree.read(path)
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        header = _header(data)
        shape = header.get_data_shape()
        count, start = int(np.prod(shape, dtype=np.int64)), int(header["vox_offset"])
        values = np.frombuffer(data, header.get_data_dtype(), count, start).reshape(shape, order="F")
        slope, intercept = header.get_slope_inter()
        if slope is not None and (slope, intercept) != (1, 0):
            values = (values * np.float32(slope) + np.float32(intercept)).astype(np.float32)
        return np.asarray(apply_orientation(values, io_orientation(header.get_best_affine())))
    except (EOFError, OverflowError, ValueError, zlib.error) as error:
        raise OSError(f"the volume is cut off or broken ({error})") from None


def _geometry(tree: Tree, path: str) -> Geometry | None:
    """Read the geometry from the first bytes of a file; None when they are no header."""
    from nibabel.orientations import aff2axcodes, io_orientation

    try:
        data = tree.head(path, HEAD)
        header = _header(zlib.decompressobj(47).decompress(data, HEADER) if data[:2] == b"\x1f\x8b" else data)
    except (OSError, zlib.error):
        return None
    affine = header.get_best_affine()
    order = np.argsort(io_orientation(affine)[:, 0])
    return Geometry(tuple(int(header.get_data_shape()[axis]) for axis in order), "".join(aff2axcodes(affine)))


def _header(data: bytes) -> Any:
    """Return a NIfTI header that describes a volume; raises OSError."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        header = Nifti1Header.from_fileobj(io.BytesIO(data[:HEADER]))
        header.get_slope_inter()
        shape, turn = header.get_data_shape(), header.get_best_affine()[:3, :3]
        plain = header.get_data_dtype().kind in "iuf" and len(shape) == 3 and min(shape) > 0
        if not plain or not np.isfinite(turn).all() or np.linalg.matrix_rank(turn) < 3:
            raise OSError("the file holds no volume of three dimensions")
    except (HeaderDataError, WrapStructError, ValueError) as error:
        raise OSError(f"the file has no NIfTI header ({error})") from None
    return header


def _gray(values: NDArray[Any], level: int, window: int) -> NDArray[np.uint8]:
    shown = (values.astype(np.float32) - (level - window / 2)) * np.float32(255 / window)
    gray: NDArray[np.uint8] = np.rint(np.clip(np.nan_to_num(shown), 0, 255)).astype(np.uint8)
    return gray


def _bare(path: PurePosixPath) -> str:
    """Return the file's name without its suffixes."""
    name = path.name.removesuffix(path.suffix)
    return name[: -len(".nii")] if name.lower().endswith(".nii") else name


def _size(geometry: Geometry) -> str:
    return f"{' x '.join(map(str, geometry.shape))} voxels ({geometry.axes})"
