"""What is fuzzed: each target makes a case, a function that runs in a child process and returns an exit code."""

import io
import json
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from mutate import mutate_bytes, mutate_text
from PIL import Image

from segline.artifacts import manifest as manifests
from segline.artifacts.validation import VALIDATION, write_statistics
from segline.cli import main
from segline.data.decoding import decode_image, decode_label
from segline.data.pairs import open_tree
from segline.data.statistics import measure

ROOT = Path(__file__).parents[2]
CLASSES = """classes:
  background: 0
  car: [1, 2]
  lane: 10-19
  person: {values: 3, color: [213, 94, 0]}
background: background
ignore: 255
"""
FOLDERS = {"ingest": {"layout": "folders"}, "label": {"crop": 16, "split": {"train": 0.5, "val": 0.25, "test": 0.25}}}
ODD_VALUES = ("", "x", "../../etc/passwd", "/", "\0", "é" * 300, -1, 2**62, None, 1.5, float("nan"), [], b"\xff", True)


@dataclass
class Data:
    """A small data set of four pairs in a folder, with what ingest and validate make of it."""

    work: Path
    files: list[bytes] = field(default_factory=list)

    @property
    def params(self):
        settings = {**FOLDERS, "ingest": {**FOLDERS["ingest"], "source": str(self.work / "source")}}
        return json.dumps(settings)

    def make(self):
        """Write the images and masks, and label files in several formats."""
        rng = np.random.default_rng(0)
        for folder in ("images", "masks"):
            (self.work / "source" / folder).mkdir(parents=True)
        for number in range(4):
            mask = rng.choice(np.array([0, 1, 3, 12, 255], np.uint8), (20, 24))
            Image.fromarray(mask).save(self.work / f"source/masks/{number}.png")
            image = Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8))
            image.save(self.work / f"source/images/{number}.jpg")
            for name in ("png", "bmp", "tiff", "gif", "ppm", "webp", "jpeg"):
                for content in (image, Image.fromarray(mask)):
                    stream = io.BytesIO()
                    content.save(stream, name)
                    self.files.append(stream.getvalue())
        (self.work / "source/classes.yaml").write_text(CLASSES, encoding="utf-8")

    def prepare(self):
        """Run ingest, and write what validate leaves if it takes every pair; returns an exit code."""
        if code := self.ingest("manifest"):
            return code
        found = manifests.read_manifest(self.work / "manifest")
        manifests.write_manifest(self.work / "validation", found)
        tree = open_tree(found.origin.root, self.work / "manifest")
        write_statistics(self.work / "validation", measure(found, tree, pieces=self.work / "pieces"))
        VALIDATION.write_mark(self.work / "validation")
        return self.label("manifest", "validation")

    def ingest(self, out):
        return main(["ingest", "--params", self.params, "--out", str(self.work / out)])

    def label(self, manifest, validation):
        folders = ["--manifest", str(self.work / manifest), "--validation", str(self.work / validation)]
        return main(["label", "--params", self.params, *folders, "--out", str(self.work / "case/label")])


def params(data, rng):
    """The parameters of a command that would read a folder that is missing."""
    text = mutate_text((ROOT / "params.yaml").read_text(encoding="utf-8"), rng)
    command = rng.choice(["label", "train", "evaluate", "promote"])
    return partial(_run_params, data.work / "case", text, command)


def _run_params(folder, text, command):
    folder.mkdir()
    (folder / "params.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    missing = "--manifest" if command == "label" else "--dataset"
    return main([command, "--params", str(folder / "params.yaml"), missing, str(folder / "none")])


def classes(data, rng):
    """The file of classes of the user's own data."""
    return partial(_run_classes, data, mutate_text(CLASSES, rng))


def _run_classes(data, text):
    shutil.copytree(data.work / "source", data.work / "case/source")
    (data.work / "case/source/classes.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    return Data(data.work / "case").ingest("manifest")


def labels(data, rng):
    """Images and label maps of several formats, decoded as all stages do."""
    content = mutate_bytes(rng.choice(data.files), rng)
    return partial(_run_labels, content)


def _run_labels(content):
    messages = []
    for decode in (decode_image, decode_label, partial(decode_image, reduce=4)):
        try:
            decode(content)
        except OSError as error:
            messages.append(str(error))
    assert all(0 < len(message) < 1000 for message in messages), "a message is empty or long"
    return 4 if messages else 0


def files(data, rng):
    """A label map or image that is damaged after validate has seen it, through ingest and label."""
    name = rng.choice(["masks/1.png", "images/1.jpg"])
    return partial(_run_files, data, name, mutate_bytes((data.work / "source" / name).read_bytes(), rng))


def _run_files(data, name, content):
    (data.work / "source" / name).write_bytes(content)
    return data.label("manifest", "validation")


def manifest(data, rng):
    """A manifest whose bytes or values are others, with a mark that fits."""
    seed = rng.random()
    content = mutate_bytes((data.work / "manifest/manifest.parquet").read_bytes(), rng) if seed < 0.5 else None
    return partial(_run_manifest, data, content, rng.randrange(2**32))


def _run_manifest(data, content, seed):
    for name, artifact in (("manifest", manifests.MANIFEST), ("validation", VALIDATION)):
        folder = data.work / "case" / name
        shutil.copytree(data.work / name, folder)
        file = folder / manifests.FILE
        file.write_bytes(_other_table(file, np.random.default_rng(seed)) if content is None else content)
        artifact.write_mark(folder)
    return data.label("case/manifest", "case/validation")


def _other_table(file, rng):
    """The manifest with other values, types, columns or metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    metadata, rows = dict(table.schema.metadata), table.to_pandas()
    column = str(rng.choice(list(rows)))
    value = ODD_VALUES[rng.integers(len(ODD_VALUES))]
    kind = rng.integers(6)
    if kind == 0:
        rows[column] = pd.Series([value] * len(rows), dtype=object)
    elif kind == 1:
        rows = rows.drop(columns=column)
    elif kind == 2:
        rows = pd.concat([rows] * int(rng.integers(0, 4)) or [rows.head(0)])
    elif kind == 3:
        name = list(metadata)[rng.integers(len(metadata))]
        metadata[name] = str(value).encode("utf-8", "replace")
    elif kind == 4:
        metadata.pop(list(metadata)[rng.integers(len(metadata))])
    else:
        rows[column] = rows[column].astype(object)
        rows.iloc[0, rows.columns.get_loc(column)] = value
    try:
        other = pa.Table.from_pandas(rows, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError):
        other = pa.Table.from_pandas(rows.map(str), preserve_index=False)
    stream = io.BytesIO()
    pq.write_table(other.replace_schema_metadata(metadata), stream)
    return stream.getvalue()


TARGETS = {"params": params, "classes": classes, "manifest": manifest, "labels": labels, "files": files}
