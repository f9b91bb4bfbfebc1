"""Validate is tried on WAD folders of tiny pairs, in which single files are then broken."""

import io
import json
import logging
import os
import re
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

import segline
from segline import cli
from segline.artifacts.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from segline.artifacts.validation import read_statistics
from segline.config.components import ComponentSpec
from segline.config.loader import load
from segline.config.params import Params
from segline.config.sections import Ingest, RuleSeverities
from segline.config.sections import Validate as Settings
from segline.data import statistics
from segline.data.layouts import LAYOUTS
from segline.data.validation import drift, expectations, quarantine_sheet
from segline.data.validation.contact_sheet import IGNORED_COLOR, UNKNOWN_COLOR, colorize
from segline.data.validation.rules import rules
from segline.errors import DataError, ParamsError, StageError, TrackingError
from segline.files.atomic import write_text
from segline.stages import ingest, validate

PAIRS = 12
SIDE = 40
CAR = 33_001
NAMES = [f"170908_{number:09d}_Camera_5" for number in range(PAIRS)]
NOWHERE = "sqlite:////nowhere/mlflow.db"


def image_path(root: Path, name: str) -> Path:
    return root / "train_color" / f"{name}.jpg"


def label_path(root: Path, name: str) -> Path:
    return root / "train_label" / f"{name}_instanceIds.png"


def image_of(root: Path, number: int) -> Path:
    return image_path(root, NAMES[number])


def label_of(root: Path, number: int) -> Path:
    return label_path(root, NAMES[number])


def noise(seed: int, size: tuple[int, int] = (SIDE, SIDE), level: int = 120) -> np.ndarray:
    spread = np.random.default_rng(seed).integers(-60, 60, (*size, 3))
    return (level + spread).clip(0, 255).astype(np.uint8)


def label_map(size: tuple[int, int] = (SIDE, SIDE), values: tuple[int, ...] = (CAR,)) -> np.ndarray:
    label = np.zeros(size, np.uint16)
    label[0, : len(values)] = values
    return label


def save_image(path: Path, seed: int, **options) -> None:
    Image.fromarray(noise(seed, **options)).save(path)


def save_label(path: Path, **options) -> None:
    Image.fromarray(label_map(**options)).save(path)


def write_pairs(root: Path, names: list[str]) -> None:
    for folder in ("train_color", "train_label"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        save_image(image_path(root, name), number)
        save_label(label_path(root, name))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "wad", NAMES)
    return tmp_path / "wad"


def run(root: Path, *, uri: str = NOWHERE, severity: dict | None = None, **settings: float) -> Path:
    """Ingest and validate; returns the folder that validate writes, whole or not."""
    checks = Settings(**{"max_quarantined_share": 0.5, "severity": RuleSeverities(**(severity or {}))} | settings)
    params = Params(ingest=Ingest(source=str(root)), validate=checks)
    ingest.run(params, out=root.parent / "ingest")
    out = root.parent / "validate"
    validate.run(params, manifest_dir=root.parent / "ingest", tracking_uri=uri, out=out)
    return out


def quarantined(folder: Path) -> dict[str, str]:
    table = pd.read_csv(folder / "quarantine.csv")
    assert list(table) == ["key", "image", "label", "rules", "reasons"]
    return dict(zip(table["key"], table["reasons"], strict=True))


def record_of(folder: Path) -> dict:
    return json.loads((folder / "validation.json").read_text())


def failed(folder: Path) -> dict[str, int]:
    return {entry["rule"]: entry["failing"] for entry in record_of(folder)["rules"] if not entry["success"]}


# Every kind of bad pair, in one data set.


def as_bytes(picture, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(stream, kind, **options)
    return stream.getvalue()


class Bad(NamedTuple):
    """What to write instead of a good image or label map (None: nothing), and what validate says.

    `says` begins with "image" or "label" for the path of that file; "" says that nothing is wrong.
    """

    image: object
    label: object
    severity: str
    rule: str
    says: str


GOOD = object()
SHARP = noise(100)
JPEG = as_bytes(noise(101), "JPEG")
PNG = as_bytes(np.random.default_rng(102).choice(np.array([0, CAR], np.uint16), (SIDE, SIDE)), "PNG")
PALETTE = Image.fromarray(np.where(label_map() > 0, 33, 0).astype(np.uint8), "P")
PALETTE.putpalette([number for level in range(256) for number in (level, 0, 255 - level)])
UPSIDE = Image.Exif()
UPSIDE[0x0112] = 6
WRITE = "; write the file again or remove the pair"
KINDS = {
    "truncated-jpeg": Bad(JPEG[:-300], GOOD, "quarantine", "image_unreadable", f"image: the file is truncated{WRITE}"),
    "jpeg-without-middle": Bad(JPEG[:700] + JPEG[-400:], GOOD, "quarantine", "image_unreadable", "image: the file is "),
    "truncated-png": Bad(GOOD, PNG[:-60], "quarantine", "label_unreadable", f"label: the file is truncated{WRITE}"),
    "png-with-a-flipped-bit": Bad(
        GOOD, PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], "quarantine", "label_unreadable", "label: the file is damaged"
    ),
    "empty-image": Bad(b"", GOOD, "quarantine", "image_unreadable", f"image: the file is empty{WRITE}"),
    "empty-label": Bad(GOOD, b"", "quarantine", "label_unreadable", f"label: the file is empty{WRITE}"),
    "text-as-image": Bad(b"a text\n", GOOD, "quarantine", "image_unreadable", "image: the file is not an image"),
    "page-as-label": Bad(GOOD, b"<html>", "quarantine", "label_unreadable", "label: the file is not an image"),
    "coloured-label": Bad(
        GOOD, as_bytes(SHARP, "PNG"), "quarantine", "label_unreadable", "label: the label map has 3 channels (RGB)"
    ),
    "cmyk": Bad(
        as_bytes(Image.fromarray(noise(103)).convert("CMYK"), "JPEG"),
        GOOD,
        "warn",
        "channels",
        "image: the channels are CMYK and are converted to RGB",
    ),
    "grey": Bad(
        as_bytes(noise(104)[..., 0], "JPEG"), GOOD, "warn", "channels", "image: the channels are L and are converted"
    ),
    "alpha": Bad(
        as_bytes(np.dstack([noise(105), noise(106)[..., :1]]), "PNG"),
        GOOD,
        "warn",
        "channels",
        "image: the channels are RGBA and are converted to RGB",
    ),
    "deep-image": Bad(
        as_bytes(noise(107)[..., 0].astype(np.uint16) * 256, "PNG"),
        GOOD,
        "warn",
        "bit_depth",
        "image: the image has 16 bits per channel, of which the upper 8 are kept",
    ),
    "stored-rotated": Bad(
        as_bytes(noise(108), "JPEG", exif=UPSIDE),
        GOOD,
        "quarantine",
        "rotated",
        "image: stored rotated (EXIF 6); save it upright, so that image and label map agree",
    ),
    "16-bit-label-cut-to-8": Bad(
        GOOD,
        as_bytes((label_map() & 255).astype(np.uint8), "PNG"),
        "quarantine",
        "unknown_values",
        "label: got the label values 233, expected those of the layout; correct the label map",
    ),
    "unknown-values": Bad(
        GOOD,
        as_bytes(label_map(values=(CAR, 7, 62_000)), "PNG"),
        "quarantine",
        "unknown_values",
        "label: got the label values 7, 62000, expected those of the layout; correct the label map",
    ),
    "no-label": Bad(
        GOOD,
        None,
        "quarantine",
        "label_missing",
        "image: the image has no label map; add the label map or remove the image",
    ),
    "no-image": Bad(
        None,
        GOOD,
        "quarantine",
        "image_missing",
        "label: the label map has no image; add the image or remove the label map",
    ),
    "other-size": Bad(
        GOOD,
        as_bytes(label_map((SIDE, SIDE + 2)), "PNG"),
        "quarantine",
        "size_mismatch",
        "label: the label map has 40 x 42 px, the image 40 x 40 px; make them the same size",
    ),
    "too-small": Bad(
        as_bytes(noise(109, (20, 40)), "JPEG"),
        as_bytes(label_map((20, 40)), "PNG"),
        "quarantine",
        "too_small",
        "image: the image has 20 x 40 px, expected a shortest side of 32 px (validate.min_side)",
    ),
    "nothing-to-find": Bad(
        GOOD,
        as_bytes(label_map(values=()), "PNG"),
        "warn",
        "no_foreground",
        "label: foreground has 0 of the labelled pixels, expected more than 0",
    ),
    "night": Bad(
        as_bytes(noise(110, level=-60), "JPEG"),
        GOOD,
        "warn",
        "brightness",
        "image: the mean gray level is 0.0, expected 3",
    ),
    "burnt-out": Bad(
        as_bytes(noise(111, level=330), "JPEG"),
        GOOD,
        "warn",
        "brightness",
        "image: the mean gray level is 255.0, expected",
    ),
    "out-of-focus": Bad(
        as_bytes(Image.fromarray(noise(112)).filter(ImageFilter.GaussianBlur(6)), "JPEG", quality=95),
        GOOD,
        "warn",
        "sharpness",
        "image: the image is blurred or empty, the variance of its Laplacian is",
    ),
    # The three pairs below have further pairs that they are like.
    "a-copy": Bad(
        as_bytes(noise(0), "JPEG"),
        as_bytes(label_map(), "PNG"),
        "quarantine",
        "duplicate",
        f"image: the same image and label map as {NAMES[0]}, which is kept; remove one of the pairs",
    ),
    "two-opinions": Bad(
        as_bytes(noise(1), "JPEG"),
        as_bytes(label_map(values=(CAR, CAR)), "PNG"),
        "quarantine",
        "label_conflict",
        f"image: the same image as {NAMES[1]} with another label map; keep the right pair, remove the other",
    ),
    "seen-before": Bad(
        as_bytes(noise(2), "JPEG", quality=95),
        GOOD,
        "warn",
        "near_duplicate",
        f"image: looks like {NAMES[2]} of 170908_5; move both to one side of the split or remove one",
    ),
    "größe & 大小 <b>": Bad(b"", GOOD, "quarantine", "image_unreadable", "image: the file is empty"),
    "palette": Bad(GOOD, as_bytes(PALETTE, "PNG"), "", "", ""),
    "progressive": Bad(as_bytes(noise(113), "JPEG", progressive=True), GOOD, "", "", ""),
    "upright": Bad(as_bytes(noise(114), "JPEG", exif=Image.Exif()), GOOD, "", "", ""),
}
ALSO_BAD = {NAMES[1]}


def name_of(kind: str) -> str:
    """A key of a drive of its own."""
    return f"1709{list(KINDS).index(kind) + 10}_{kind}_Camera_6"


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The folder that validate wrote of all kinds of bad pairs and twelve good ones, and what was there before."""
    root = tmp_path_factory.mktemp("broken") / "wad"
    write_pairs(root, [*NAMES, *map(name_of, KINDS)])
    for kind, bad in KINDS.items():
        for path, content in (
            (image_path(root, name_of(kind)), bad.image),
            (label_path(root, name_of(kind)), bad.label),
        ):
            if content is None:
                path.unlink()
            elif content is not GOOD:
                path.write_bytes(content)
    return run(root, max_quarantined_share=1.0), root


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_bad_pair_is_named_with_what_to_do(broken, kind):
    (out, root), name, bad = broken, name_of(kind), KINDS[kind]
    told = {
        entry["rule"]: (entry["severity"], reason)
        for entry in record_of(out)["rules"]
        for key, reason in zip(entry["keys"], entry["reasons"], strict=True)
        if key == name
    }
    kept = set(read_manifest(out).rows["key"])
    assert (name in kept) == (bad.severity != "quarantine")
    if not bad.rule:
        assert told == {}
        return
    severity, reason = told[bad.rule]
    path = image_path(root, name) if bad.says.startswith("image") else label_path(root, name)
    assert severity == bad.severity
    assert reason.startswith(path.relative_to(root).as_posix() + bad.says[len("image") :])
    assert "\n" not in reason
    assert [rule for rule, (severity, _) in told.items() if severity == "quarantine"] == (
        [bad.rule] if severity == "quarantine" else []
    )
    assert (reason in quarantined(out).get(name, "")) == (severity == "quarantine")


def test_no_other_pair_is_lost(broken):
    out, root = broken
    bad = {name_of(kind) for kind, entry in KINDS.items() if entry.severity == "quarantine"} | ALSO_BAD
    before, after = read_manifest(root.parent / "ingest"), read_manifest(out)
    assert set(before.rows["key"]) - set(after.rows["key"]) == set(quarantined(out)) == bad
    assert list(read_statistics(out)["key"]) == list(after.rows["key"])
    assert record_of(out)["whole"] + record_of(out)["quarantined"] == len(before.rows) == PAIRS + len(KINDS)
    assert str(root) not in (out / "quarantine.csv").read_text() + (out / "validation.json").read_text()


def test_nothing_is_left_half_written(broken):
    out, _ = broken
    assert {path.name for path in out.parent.iterdir() if path.is_dir()} == {"ingest", "validate", "wad"}
    assert sorted(path.name for path in out.iterdir()) == [
        ".segline",
        "artifact.json",
        "docs",
        "manifest.parquet",
        "quarantine.csv",
        "quarantine.jpg",
        "statistics.parquet",
        "validation.json",
    ]


def test_the_sheet_shows_the_quarantined_pairs(broken):
    out, _ = broken
    with Image.open(out / "quarantine.jpg") as sheet:
        colors = np.asarray(sheet)
    rows = -(-len(quarantined(out)) // 4)
    assert colors.shape[0] > 200 * rows
    assert (np.abs(colors.astype(int) - UNKNOWN_COLOR).max(-1) < 40).any()


def test_the_sheet_is_there_without_bad_pairs_and_holds_no_more_than_it_can(root, monkeypatch):
    with Image.open(run(root) / "quarantine.jpg") as sheet:
        empty = sheet.height
    for number in range(6):
        label_of(root, number).write_bytes(b"")
    monkeypatch.setattr(quarantine_sheet, "MAX_THUMBNAILS", 4)
    headings = []
    write = quarantine_sheet.write_sheet
    monkeypatch.setattr(
        quarantine_sheet,
        "write_sheet",
        lambda path, tiles, heading: (headings.append(heading), write(path, tiles, heading=heading)),
    )
    with Image.open(run(root, min_pairs=1) / "quarantine.jpg") as sheet:
        assert empty + 200 < sheet.height < empty + 300
    assert headings == ["quarantined: 6 of 12 pairs, +2 more"]


def test_a_label_map_is_shown_in_its_classes_colours():
    label_spec = LAYOUTS["wad"]().label_spec("")
    shown = colorize(np.array([[0, CAR], [7, 255]], np.uint16), label_spec)
    assert shown.tolist() == [[[0, 0, 0], list(label_spec.classes[1].color)], [list(UNKNOWN_COLOR), [0, 0, 0]]]
    void = LAYOUTS["camvid"]().label_spec("")
    assert colorize(np.full((1, 1), 11, np.uint8), void).tolist() == [[list(IGNORED_COLOR)]]
    assert max(colorize(np.zeros((3000, 2000), np.uint16), label_spec).shape) < 1000


# The stage.


@pytest.mark.parametrize(
    ("settings", "faults"),
    [
        ({"severity": {"sharpnes": "stop"}}, ["validate.severity.sharpnes: unknown key; did you mean 'sharpness'?"]),
        (
            {"severity": {"drift": "quarantine", "image_unreadable": "warn"}},
            [
                "validate.severity.drift: got 'quarantine', expected one of stop, warn",
                "validate.severity.image_unreadable: got 'warn', expected one of stop, quarantine",
            ],
        ),
        (
            {"min_brightness": 90, "max_brightness": 80},
            ["validate.min_brightness: got 90, expected no more than validate.max_brightness, 80"],
        ),
    ],
)
def test_wrong_settings_are_refused(settings, faults):
    with pytest.raises(ParamsError) as caught:
        load(json.dumps({"validate": settings}))
    assert caught.value.errors == faults


def test_good_pairs_all_pass(root, capsys):
    out = run(root)
    assert capsys.readouterr().out.splitlines()[-1] == "validate: 12 of 12 pairs are whole"
    before, after = read_manifest(root.parent / "ingest"), read_manifest(out)
    assert after.origin == before.origin
    pd.testing.assert_frame_equal(after.rows, before.rows)
    assert quarantined(out) == {}
    assert failed(out) == {}
    assert record_of(out)["stopped"] is None


def test_what_is_bad_is_printed_up_to_a_few_pairs(root, capsys):
    for number in range(6):
        save_label(label_of(root, number), values=(CAR, *range(2, 10)))
    save_image(image_of(root, 6), 6, level=-45)
    save_image(image_of(root, 7), 7, level=-45)
    out = run(root, min_pairs=1)
    printed = capsys.readouterr().out.splitlines()[1:]
    reasons = list(quarantined(out).values())
    assert "got the label values 2, 3, 4, 5, 6 and 3 more" in reasons[0]
    assert (
        printed[0] == f"validate: 6 of 12 pairs are whole, 6 quarantined, see {out}/quarantine.csv and quarantine.jpg"
    )
    assert printed[1:6] == [f"  {reason}" for reason in reasons[:5]]
    assert printed[6].startswith(f"  warning: brightness: train_color/{NAMES[6]}.jpg: the mean gray level is ")
    assert printed[6].endswith(f"; and 1 more, see {out}/docs/index.html")


def test_a_pair_may_be_bad_for_two_reasons(root):
    save_image(image_of(root, 3), 3, size=(20, 40))
    out = run(root)
    assert [part.partition(":")[0] for part in quarantined(out)[NAMES[3]].split("; train")] == [
        f"train_label/{NAMES[3]}_instanceIds.png",
        f"_color/{NAMES[3]}.jpg",
    ]
    assert pd.read_csv(out / "quarantine.csv")["rules"].to_list() == ["size_mismatch too_small"]


def test_a_file_that_vanished_is_looked_for_again(root):
    """What could not be read is not remembered."""
    manifest_dir, out = root.parent / "ingest", root.parent / "validate"
    ingest.run(Params(ingest=Ingest(source=str(root))), out=manifest_dir)
    content = image_of(root, 0).read_bytes()
    image_of(root, 0).unlink()
    with pytest.raises(DataError, match=r"only 11 of 12 .*: No such file or directory; write the file again"):
        validate.run(Params(validate=Settings(min_pairs=12)), manifest_dir=manifest_dir, tracking_uri=NOWHERE, out=out)
    assert not out.exists()
    image_of(root, 0).write_bytes(content)
    validate.run(Params(validate=Settings(min_pairs=12)), manifest_dir=manifest_dir, tracking_uri=NOWHERE, out=out)
    assert len(read_manifest(out).rows) == 12
    assert {path.name for path in root.parent.iterdir() if path.is_dir()} == {"wad", "ingest", "validate"}


def test_a_label_map_that_is_ignored_everywhere_is_quarantined(tmp_path):
    """CamVid's void (11) is ignored; and CamVid has frames of one drive in two splits."""
    for split, numbers in (("train", range(8)), ("val", range(8, PAIRS))):
        lines = []
        for number in numbers:
            name = f"0001TP_{number:06d}.png"
            save_image(tmp_path / name, number)
            label = np.full((SIDE, SIDE), 11 if number == 4 else number % 11, np.uint8)
            Image.fromarray(label).save(tmp_path / f"l{name}")
            lines.append(f"{name} l{name}")
        write_text(tmp_path / f"{split}.txt", "\n".join(lines))
    params = Params(ingest=Ingest(source=str(tmp_path), layout=ComponentSpec(name="camvid")))
    ingest.run(params, out=tmp_path / "ingest")
    out = tmp_path / "validate"
    validate.run(params, manifest_dir=tmp_path / "ingest", tracking_uri=NOWHERE, out=out)
    reason = "l0001TP_000004.png: no pixel is labelled; label it or remove the pair"
    assert quarantined(out) == {"0001TP_000004": reason}
    assert failed(out) == {"empty_label": 1, "group_in_splits": 12}
    [told] = [entry for entry in record_of(out)["rules"] if entry["rule"] == "group_in_splits"]
    assert len(told["keys"]) == 10
    assert told["reasons"][0] == "0001TP_000000: the group 0001TP is in train and in val; keep each group in one split"


@pytest.mark.parametrize(("severity", "lost"), [("warn", 0), ("quarantine", 1)])
def test_a_severity_can_be_chosen(root, severity, lost):
    save_image(image_of(root, 1), 1, level=-60)
    out = run(root, severity={"brightness": severity, "sharpness": "warn"})
    assert failed(out) == {"brightness": 1, "sharpness": 1}
    assert len(read_manifest(out).rows) == PAIRS - lost
    assert list(quarantined(out)) == [NAMES[1]][:lost]


def test_one_pair_can_stop_the_line(root):
    for number in range(5):
        save_image(image_of(root, number), number, level=-45)
    with pytest.raises(DataError) as caught:
        run(root, severity={"brightness": "stop"})
    message = str(caught.value)
    assert message.startswith(f"train_color/{NAMES[0]}.jpg: the mean gray level is ")
    assert message.endswith(f"; and 2 more; see {root.parent}/validate.rejected/docs/index.html and quarantine.csv")
    assert failed(root.parent / "validate.rejected") == {"brightness": 5, "sharpness": 5}
    assert record_of(root.parent / "validate.rejected")["stopped"] in message


def test_too_many_bad_pairs_stop_the_line_and_leave_a_report(root, tmp_path, capsys):
    out = run(root)
    whole = (out / "manifest.parquet").read_bytes()
    for number in range(4):
        label_of(root, number).write_bytes(b"")
    params = tmp_path / "params.yaml"
    params.write_text(f"ingest: {{source: {root}}}\nvalidate: {{min_pairs: 1, max_quarantined_share: 0.3}}")
    words = ["--params", str(params)]
    assert cli.main(["ingest", *words, "--out", str(tmp_path / "ingest")]) == 0
    words += ["--tracking-uri", NOWHERE]
    code = cli.main(["validate", *words, "--manifest", str(tmp_path / "ingest"), "--out", str(out)])
    assert code == DataError.exit_code == 4
    message = capsys.readouterr().err
    rejected = tmp_path / "validate.rejected"
    assert message.count("\n") == 1
    assert "4 of 12 pairs are bad, validate.max_quarantined_share is 0.3: train_label/" in message
    assert f"train_label/{NAMES[0]}_instanceIds.png: the file is empty; write the file again" in message
    assert f"; and 1 more; see {rejected}/docs/index.html and quarantine.csv" in message
    assert list(quarantined(rejected)) == NAMES[:4]
    assert (rejected / "docs" / "index.html").is_file()
    assert (rejected / "quarantine.jpg").is_file()
    assert not (rejected / "manifest.parquet").exists()
    assert (out / "manifest.parquet").read_bytes() == whole
    run(root, min_pairs=1)
    assert not rejected.exists()


def test_a_folder_that_segline_did_not_write_is_left_alone(root):
    write_text(root.parent / "validate.rejected" / "mine.txt", "")
    run(root)
    assert (root.parent / "validate.rejected" / "mine.txt").is_file()


def test_the_share_itself_is_still_allowed(root):
    for number in range(3):
        label_of(root, number).write_bytes(b"")
    assert len(quarantined(run(root, min_pairs=1, max_quarantined_share=0.25))) == 3


def test_too_few_pairs_stop_the_line(root):
    with pytest.raises(DataError, match=r"fewer than 13 pairs; add pairs or lower validate\.min_pairs; see .*rejected"):
        run(root, min_pairs=13)
    assert failed(root.parent / "validate.rejected") == {"min_pairs": 0}
    label_of(root, 0).write_bytes(b"")
    with pytest.raises(DataError, match=r"only 11 of 12 pairs are whole, validate\.min_pairs is 12: train_label/"):
        run(root, min_pairs=12)


def manifest_of(root: Path) -> Manifest:
    ingest.run(Params(ingest=Ingest(source=str(root))), out=root.parent / "ingest")
    return read_manifest(root.parent / "ingest")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows.iloc[:0], "fewer than 10 pairs"),
        (
            lambda rows: pd.concat([rows, rows.iloc[:1]]),
            f"the manifest has the key {NAMES[0]} twice; run `segline in",
        ),
    ],
)
def test_a_broken_manifest_stops_the_line(root, change, reason):
    manifest = manifest_of(root)
    write_manifest(root.parent / "broken", replace(manifest, rows=change(manifest.rows)))
    MANIFEST.write_mark(root.parent / "broken")
    with pytest.raises(DataError, match=reason):
        validate.run(Params(), manifest_dir=root.parent / "broken", tracking_uri=NOWHERE, out=root.parent / "validate")
    assert not (root.parent / "validate").exists()


def test_a_missing_manifest_is_told_at_once(tmp_path):
    with pytest.raises(StageError, match=r"manifest\.parquet is missing"):
        validate.run(Params(), manifest_dir=tmp_path, tracking_uri=NOWHERE, out=tmp_path / "validate")


def test_two_runs_write_the_same_bytes(root):
    label_of(root, 0).write_bytes(b"")
    first, second = (
        {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
        for out in (run(root), run(root))
    )
    assert Path("docs/index.html") in first
    assert first == second


def test_other_thresholds_need_no_second_look(root, monkeypatch):
    """A refused run leaves what it measured, and a killed one likewise."""
    with pytest.raises(DataError):
        run(root, min_pairs=13)
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "examine", None)
        assert len(read_manifest(run(root, min_pairs=12)).rows) == 12
    save_image(image_of(root, 0), 50)
    assert read_statistics(run(root))["brightness"][0] == pytest.approx(noise(50).mean(), abs=1)


# Drift.


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> pd.DataFrame:
    """The statistics of the good pairs."""
    root = tmp_path_factory.mktemp("before") / "wad"
    write_pairs(root, NAMES)
    return read_statistics(run(root))


@pytest.fixture
def champion(monkeypatch, before):
    """A registry in which version 3 is champion, trained on the good pairs."""
    monkeypatch.setattr(validate, "_champion", lambda name, uri: (3, before))


@pytest.fixture
def few(monkeypatch):
    """So few pairs are enough to compare."""
    monkeypatch.setattr(drift, "FEWEST", PAIRS)


def test_equal_data_have_not_drifted(root, champion, few):
    found = record_of(run(root))["drift"]
    assert (found["champion"], found["note"]) == (3, "")
    assert {entry["psi"] for entry in found["statistics"]} == {0}
    assert {"brightness", "height", "share of car"} < {entry["statistic"] for entry in found["statistics"]}


def darker(root: Path) -> None:
    for number in range(PAIRS):
        save_image(image_of(root, number), number, level=70)


def test_drift_is_warned_about(root, champion, few, capsys):
    darker(root)
    out = run(root)
    found = record_of(out)["drift"]["statistics"]
    assert [entry["psi"] for entry in found] == sorted((entry["psi"] for entry in found), reverse=True)
    moved = {entry["statistic"]: entry for entry in found}["brightness"]
    assert moved["psi"] > 0.2
    assert moved["before"] == pytest.approx(120, abs=3)
    assert moved["now"] == pytest.approx(70, abs=3)
    assert failed(out) == {"drift": 0}
    assert len(read_manifest(out).rows) == PAIRS
    warning = capsys.readouterr().out.splitlines()[-1]
    assert warning.startswith(
        "  warning: drift: the data differ from those that champion v3 was trained on: brightness "
    )
    assert warning.endswith("; if this is meant, raise validate.max_drift")
    page = (out / "docs" / "index.html").read_text()
    assert "training data of champion v3; above 0.2" in page
    assert "<td>brightness</td>" in page


def test_drift_may_stop_the_line(root, champion, few):
    darker(root)
    with pytest.raises(DataError, match=r"champion v3 was trained on: brightness .*see .*rejected/docs/index\.html"):
        run(root, severity={"drift": "stop"})
    assert failed(run(root, severity={"drift": "stop"}, max_drift=50)) == {}


FEW = "drift is not checked: 12 pairs are too few to compare, at least 100 are needed"
MEND = "; fix that or set validate.severity.drift to warn"


def test_too_few_pairs_are_not_compared(root, champion, capsys):
    out = run(root)
    assert record_of(out)["drift"] == {"champion": 3, "note": FEW, "statistics": []}
    assert failed(out) == {}
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "warning" in line] == [f"validate: warning: {FEW}"]


def test_drift_that_stops_the_line_has_to_be_checked(root, champion, capsys):
    with pytest.raises(DataError, match=f"^{FEW}{MEND}; see "):
        run(root, severity={"drift": "stop"})
    rejected = root.parent / "validate.rejected"
    assert failed(rejected) == {"drift": 0}
    assert record_of(rejected)["stopped"] == FEW + MEND
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("error", [TrackingError("nobody there"), StageError("broken"), ImportError("no mlflow")])
def test_a_champion_that_cannot_be_asked_for_stops_the_line_too(root, monkeypatch, error):
    def fail(name, uri):
        raise error

    monkeypatch.setattr(validate, "_champion", fail)
    with pytest.raises(DataError, match=f"^drift is not checked: {error}{MEND}; see "):
        run(root, severity={"drift": "stop"})
    assert failed(run(root)) == {}


def test_without_any_champion_nothing_can_have_drifted(root):
    assert failed(run(root, severity={"drift": "stop"})) == {}


def forget_tracking(monkeypatch) -> None:
    """Let its import fail, as without MLflow."""
    monkeypatch.delattr(segline, "tracking", raising=False)
    monkeypatch.setitem(sys.modules, "segline.tracking.registry", None)


def test_without_a_registry_mlflow_is_not_even_imported(root, monkeypatch):
    forget_tracking(monkeypatch)
    out = run(root)
    assert record_of(out)["drift"]["note"] == "there is no champion with statistics to compare with"


def test_without_its_server_drift_is_not_checked(root, monkeypatch, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    out = run(root, uri=uri)
    assert record_of(out)["drift"]["note"].startswith(f"drift is not checked: --tracking-uri {uri} cannot be reached (")
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"validate: warning: drift is not checked: --tracking-uri {uri} cannot be reached (")


def test_without_mlflow_drift_is_not_checked(root, monkeypatch):
    forget_tracking(monkeypatch)
    assert "drift is not checked: " in record_of(run(root, uri="http://127.0.0.1:1"))["drift"]["note"]


# The page.


def test_the_docs_hold_every_expectation_and_need_no_other_file(root):
    save_label(label_of(root, 0), values=(7,))
    out = run(root)
    page = (out / "docs" / "index.html").read_text()
    for rule in rules(Settings()):
        assert f"{rule.severity}: {rule.name}" in page
    assert NAMES[0] in page
    assert not re.search(r"https?://|<script|<link|<img", page)


def test_every_severity_has_a_rule():
    slugs = [rule.slug for rule in rules(Settings())]
    assert len(set(slugs)) == len(slugs)
    assert set(RuleSeverities.__dataclass_fields__) - {"drift"} <= set(slugs)


def test_names_of_files_are_no_html():
    rule = expectations.Rule(
        slug="empty",
        name="empty",
        severity="warn",
        expectation="ExpectColumnValuesToBeInSet",
        options={"column": "text", "value_set": [""]},
    )
    table = pd.DataFrame({"key": ["<b>a</b> $x {y}"], "text": ["<script>alert(1)</script>"]})
    [outcome], page = expectations.check(table, [rule], key="key")
    assert outcome.failing == ("<b>a</b> $x {y}",)
    assert "<script" not in page
    assert "<b>a" not in page


def test_a_rule_that_cannot_be_evaluated_is_our_fault():
    rule = expectations.Rule(
        slug="x", name="x", expectation="ExpectColumnValuesToBeUnique", options={"column": "nowhere"}
    )
    with pytest.raises(RuntimeError, match="nowhere"):
        expectations.check(pd.DataFrame({"key": ["a"]}), [rule], key="key")


def test_great_expectations_stays_offline_quiet_and_leaves_nothing(root, tmp_path, monkeypatch, capfd, caplog):
    def refuse(*_):
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    monkeypatch.chdir(home)
    level = logging.getLogger("great_expectations").level
    run(root)
    printed = capfd.readouterr()
    assert printed.err == ""
    assert len(printed.out.splitlines()) == 2
    assert not caplog.records
    assert list(home.iterdir()) == []
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert logging.getLogger("great_expectations").level == level
