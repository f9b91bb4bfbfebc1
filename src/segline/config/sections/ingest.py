"""The section ``ingest``: where the images come from."""

from dataclasses import dataclass, field
from typing import Annotated

from segline.config.components import LAYOUT, ComponentSpec
from segline.config.fields import Fraction, Pattern, Range, Unit


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """The street scenes that the source ``synthetic:`` draws."""

    drives: Annotated[int, Range(3, 1000), "the number of drives; each has a street, weather and light of its own"] = 80
    frames_per_drive: Annotated[int, Range(1, 10_000), "the number of consecutive frames in a drive"] = 3
    height: Annotated[int, Range(96, 2710), Unit("px"), "the height of a frame"] = 240
    width: Annotated[int, Range(128, 3384), Unit("px"), "the width of a frame"] = 300
    missing_label_share: Annotated[
        float, Fraction, "the share of frames in which the label of one object is missing"
    ] = 0.03


@dataclass(frozen=True, kw_only=True)
class Dvc:
    """The part of a DVC repository that the source ``dvc://repository`` reads."""

    path: Annotated[str, "the folder of the data in the repository; empty: the whole repository"] = ""
    revision: Annotated[str, "the commit, tag or branch to read"] = "HEAD"


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """The source of the images and label maps, and how they are stored there."""

    source: Annotated[
        str,
        "the folder or archive with the data, https://..., s3://bucket/prefix, dvc://repository, or synthetic: for "
        "street scenes that are drawn",
    ] = "synthetic:"
    sha256: Annotated[
        str,
        Pattern("|[0-9a-fA-F]{64}", "64 digits in hex, or nothing"),
        "the SHA-256 that the archive must have; empty: it is not checked",
    ] = ""
    max_unpack_ratio: Annotated[
        int,
        Range(1, 1_000_000),
        "the most that an archive may hold unpacked, as a multiple of its own size; 64 MiB are always accepted",
    ] = 100
    dvc: Dvc = field(default_factory=Dvc)
    layout: Annotated[
        ComponentSpec, LAYOUT, "the layout of the files, which says how images and label maps are paired"
    ] = field(default_factory=lambda: ComponentSpec(name="wad"))
    synthetic: Synthetic = field(default_factory=Synthetic)
