"""Validate is tried on a WAD folder of tiny pairs, in which single files are then broken."""

import json
import logging
import os
import re
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from segline import cli, expectations
from segline.data.manifest import Manifest, read_manifest, write_manifest
from segline.errors import DataError, StageError
from segline.outputs import write_text
from segline.params import Ingest, Params
from segline.params import Validate as Settings
from segline.stages import ingest, validate

PAIRS = 12
SIDE = 40
CAR = 33_001
NAMES = [f"170908_{number:09d}_Camera_5" for number in range(PAIRS)]


def image_of(root: Path, number: int) -> Path:
    return root / "train_color" / f"{NAMES[number]}.jpg"


def label_of(root: Path, number: int) -> Path:
    return root / "train_label" / f"{NAMES[number]}_instanceIds.png"


def save_image(path: Path, size: tuple[int, int] = (SIDE, SIDE), level: int = 120) -> None:
    noise = np.random.default_rng(0).integers(-20, 20, (*size, 3))
    Image.fromarray((level + noise).clip(0, 255).astype(np.uint8)).save(path)


def save_label(path: Path, size: tuple[int, int] = (SIDE, SIDE), values: tuple[int, ...] = (CAR,)) -> None:
    label = np.zeros(size, np.uint16)
    label[0, : len(values)] = values
    Image.fromarray(label).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "wad"
    for folder in ("train_color", "train_label"):
        (root / folder).mkdir(parents=True)
    for number in range(PAIRS):
        save_image(image_of(root, number))
        save_label(label_of(root, number))
    return root


def run(root: Path, **settings: float) -> Path:
    """Ingest and validate; returns the folder that validate writes, whole or not."""
    params = Params(ingest=Ingest(source=str(root)), validate=Settings(**{"max_quarantined_share": 0.5} | settings))
    ingest.run(params, out=root.parent / "ingest")
    out = root.parent / "validate"
    validate.run(params, ingested=root.parent / "ingest", out=out)
    return out


def quarantined(folder: Path) -> dict[str, str]:
    table = pd.read_csv(folder / "quarantine.csv")
    assert list(table) == ["key", "image", "label", "reasons"]
    return dict(zip(table["key"], table["reasons"], strict=True))


def failed(folder: Path) -> dict[str, int]:
    record = json.loads((folder / "validation.json").read_text())
    return {entry["name"]: entry["failing_rows"] for entry in record["expectations"] if not entry["success"]}


def test_good_pairs_all_pass(root, capsys):
    out = run(root)
    assert capsys.readouterr().out.splitlines()[-1] == "validate: 12 of 12 pairs are whole"
    before, after = read_manifest(root.parent / "ingest"), read_manifest(out)
    assert after.origin == before.origin
    pd.testing.assert_frame_equal(after.rows, before.rows)
    assert quarantined(out) == {}
    assert failed(out) == {}
    assert sorted(path.name for path in out.iterdir()) == [
        ".segline",
        "docs",
        "manifest.parquet",
        "quarantine.csv",
        "validation.json",
    ]


def test_each_broken_file_is_named_with_what_is_wrong(root, capsys):
    image_of(root, 0).write_bytes(image_of(root, 0).read_bytes()[:-200])
    label_of(root, 1).write_bytes(b"")
    image_of(root, 2).write_text("not an image")
    save_label(label_of(root, 3), values=(CAR, 7, 62_000))
    save_label(label_of(root, 4), size=(SIDE, SIDE + 2))
    out = run(root, min_pairs=1)
    reasons = quarantined(out)
    assert list(reasons) == NAMES[:5]
    assert re.fullmatch(rf"train_color/{NAMES[0]}.jpg: cannot be read \(.*truncated.*\)", reasons[NAMES[0]])
    assert reasons[NAMES[1]] == f"train_label/{NAMES[1]}_instanceIds.png: the file is empty"
    assert reasons[NAMES[2]] == f"train_color/{NAMES[2]}.jpg: the file is not an image"
    assert reasons[NAMES[3]] == f"train_label/{NAMES[3]}_instanceIds.png: unknown label values 7, 62000"
    assert reasons[NAMES[4]].endswith("_instanceIds.png: the label map is 40 x 42 px, the image 40 x 40 px")
    assert str(root) not in (out / "quarantine.csv").read_text()
    assert list(read_manifest(out).rows["key"]) == NAMES[5:]
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == f"validate: 7 of 12 pairs are whole, 5 quarantined, see {out}/quarantine.csv"
    assert printed[2:] == [f"  {reason}" for reason in reasons.values()]


def test_only_the_first_values_and_pairs_are_listed(root, capsys):
    for number in range(6):
        save_label(label_of(root, number), values=(CAR, *range(2, 10)))
    out = run(root, min_pairs=1)
    assert quarantined(out)[NAMES[0]].endswith("unknown label values 2, 3, 4, 5, 6 and 3 more")
    assert len(capsys.readouterr().out.splitlines()) == 2 + 5


def test_a_pair_may_be_bad_for_two_reasons(root):
    save_image(image_of(root, 3), size=(20, 40))
    assert quarantined(run(root))[NAMES[3]].split("; ") == [
        f"train_label/{NAMES[3]}_instanceIds.png: the label map is 40 x 40 px, the image 20 x 40 px",
        f"train_color/{NAMES[3]}.jpg: 20 x 40 px, the shortest side must have 32",
    ]


def test_a_vanished_file_and_a_coloured_label_are_quarantined(root):
    save_image(label_of(root, 1))
    ingested = root.parent / "ingest"
    ingest.run(Params(ingest=Ingest(source=str(root))), out=ingested)
    image_of(root, 0).unlink()
    params = Params(validate=Settings(max_quarantined_share=0.5))
    validate.run(params, ingested=ingested, out=root.parent / "validate")
    reasons = quarantined(root.parent / "validate")
    assert reasons[NAMES[0]].endswith("cannot be read (No such file or directory)")
    assert "one channel" in reasons[NAMES[1]]


def test_a_label_map_that_is_ignored_everywhere_is_quarantined(tmp_path):
    """CamVid's void (11) is ignored."""
    lines = []
    for number in range(PAIRS):
        name = f"0001TP_{number:06d}.png"
        save_image(tmp_path / name)
        Image.fromarray(np.full((SIDE, SIDE), 11 if number == 4 else number % 11, np.uint8)).save(tmp_path / f"l{name}")
        lines.append(f"{name} l{name}")
    write_text(tmp_path / "train.txt", "\n".join(lines))
    params = Params(ingest=Ingest(source=str(tmp_path), layout="camvid"))
    ingest.run(params, out=tmp_path / "ingest")
    validate.run(params, ingested=tmp_path / "ingest", out=tmp_path / "validate")
    assert quarantined(tmp_path / "validate") == {"0001TP_000004": "l0001TP_000004.png: no labelled pixel"}
    assert failed(tmp_path / "validate") == {"at least one pixel is labelled": 1}


def test_a_warning_keeps_the_pair(root, capsys):
    save_label(label_of(root, 0), values=())
    save_image(image_of(root, 1), level=-50)
    out = run(root)
    assert failed(out) == {"there is foreground": 1, "the image is neither black nor white": 1}
    assert len(read_manifest(out).rows) == PAIRS
    assert "warning: there is foreground fails for 1 pairs" in capsys.readouterr().out


def test_too_many_bad_pairs_stop_the_line_and_leave_a_report(root, tmp_path, capsys):
    out = run(root)
    whole = (out / "manifest.parquet").read_bytes()
    for number in range(4):
        label_of(root, number).write_bytes(b"")
    params = tmp_path / "params.yaml"
    params.write_text(f"ingest: {{source: {root}}}\nvalidate: {{min_pairs: 1, max_quarantined_share: 0.3}}")
    words = ["--params", str(params)]
    assert cli.main(["ingest", *words, "--out", str(tmp_path / "ingest")]) == 0
    code = cli.main(["validate", *words, "--ingested", str(tmp_path / "ingest"), "--out", str(out)])
    assert code == DataError.exit_code == 4
    message = capsys.readouterr().err
    rejected = tmp_path / "validate.rejected"
    assert message.count("\n") == 1
    assert "4 of 12 pairs are bad, validate.max_quarantined_share is 0.3" in message
    assert f"train_label/{NAMES[0]}_instanceIds.png: the file is empty" in message
    assert f"and 1 more; mend or remove these files and ingest again, see {rejected}/quarantine.csv" in message
    assert list(quarantined(rejected)) == NAMES[:4]
    assert (rejected / "docs" / "index.html").is_file()
    assert not (rejected / "manifest.parquet").exists()
    assert (out / "manifest.parquet").read_bytes() == whole
    run(root, min_pairs=1)
    assert not rejected.exists()


def test_the_share_itself_is_still_allowed(root):
    for number in range(3):
        label_of(root, number).write_bytes(b"")
    assert len(quarantined(run(root, min_pairs=1, max_quarantined_share=0.25))) == 3


def test_too_few_pairs_stop_the_line(root):
    with pytest.raises(DataError, match=r"fewer than 13 pairs; add pairs or lower validate\.min_pairs; see .*rejected"):
        run(root, min_pairs=13)
    assert failed(root.parent / "validate.rejected") == {"there are at least 13 pairs": 0}
    label_of(root, 0).write_bytes(b"")
    with pytest.raises(DataError, match=r"only 11 of 12 pairs are whole, validate\.min_pairs is 12: train_label/"):
        run(root, min_pairs=12)


def manifest_of(root: Path, rows: pd.DataFrame | None = None) -> Manifest:
    params = Params(ingest=Ingest(source=str(root)))
    ingest.run(params, out=root.parent / "ingest")
    manifest = read_manifest(root.parent / "ingest")
    return manifest if rows is None else replace(manifest, rows=rows)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows.iloc[:0], "fewer than 10 pairs"),
        (lambda rows: pd.concat([rows, rows.iloc[:1]]), "a key of the manifest is there twice"),
        (lambda rows: rows.assign(key=rows["key"].where(rows.index > 0)), "a row of the manifest lacks its key"),
        (lambda rows: rows.assign(label=rows["label"].where(rows.index > 0)), "a row of the manifest lacks its label"),
    ],
)
def test_a_broken_manifest_stops_the_line(root, change, reason):
    manifest = manifest_of(root)
    write_manifest(root.parent / "broken", replace(manifest, rows=change(manifest.rows)))
    with pytest.raises(DataError, match=reason):
        validate.run(Params(), ingested=root.parent / "broken", out=root.parent / "validate")
    assert not (root.parent / "validate").exists()


def test_a_missing_manifest_is_told_at_once(tmp_path):
    with pytest.raises(StageError, match=r"manifest\.parquet is missing"):
        validate.run(Params(), ingested=tmp_path, out=tmp_path / "validate")


def test_two_runs_write_the_same_bytes(root):
    label_of(root, 0).write_bytes(b"")
    names = ("manifest.parquet", "quarantine.csv", "validation.json")
    first = [(run(root) / name).read_bytes() for name in names]
    assert [(run(root) / name).read_bytes() for name in names] == first


def test_statistics_agree_with_counting_pixel_by_pixel(root):
    save_label(label_of(root, 0), size=(SIDE, SIDE + 3), values=(CAR, 34_000, 161_000 % 65_536, 255, 9))
    manifest = manifest_of(root)
    row = validate.measure(manifest, root).iloc[0]
    raw = np.asarray(Image.open(label_of(root, 0)))
    classes = [int(manifest.layout.table[value]) for value in raw.ravel()]
    known = [entry for entry in classes if entry < len(manifest.layout.classes)]
    assert row["labelled_pixels"] == len(known)
    assert row["foreground_share"] == pytest.approx(sum(entry > 0 for entry in known) / len(known))
    assert row["brightness"] == pytest.approx(np.asarray(Image.open(image_of(root, 0)), float).mean())
    assert (row["image_size"], row["label_size"], row["shortest_side"]) == ("40 x 40", "40 x 43", 40)


def test_the_docs_hold_every_expectation_and_need_no_other_file(root):
    save_label(label_of(root, 0), values=(7,))
    out = run(root)
    page = (out / "docs" / "index.html").read_text()
    for rule in validate.rules(Settings()):
        assert f"{rule.severity}: {rule.name}" in page
    assert NAMES[0] in page
    assert not re.search(r"https?://|<script|<link|<img", page)


def test_names_of_files_are_no_html():
    rule = expectations.Rule(
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
        name="x", severity="warn", expectation="ExpectColumnValuesToBeUnique", options={"column": "nowhere"}
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
