"""The bundle: a folder with all that a prediction needs, which train and ensemble write and MLflow keeps.

``model.json`` names the classes and the members; each member is an architecture, its options and a ``.safetensors``
file. One member is a single model, several are an ensemble whose probabilities are averaged.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segline.classes import LabelClass
from segline.errors import StageError
from segline.files.atomic import write_json
from segline.files.hashing import file_hash

FILE = "model.json"


@dataclass(frozen=True)
class Member:
    """A model of a bundle.

    Attributes:
        candidate: The name of the candidate that the model comes from.
        model: The architecture's name in ``MODELS``.
        options: The architecture's options.
        weights: The file of the weights, relative to the bundle.
    """

    candidate: str
    model: str
    options: dict[str, Any]
    weights: str


@dataclass(frozen=True)
class Bundle:
    """The description of a bundle.

    Attributes:
        classes: The classes, in the order of their ids.
        background: The id that is not foreground, or None.
        members: The models, whose probabilities are averaged.
    """

    classes: tuple[LabelClass, ...]
    background: int | None
    members: tuple[Member, ...]


def write_description(folder: Path, bundle: Bundle) -> None:
    """Write ``model.json``; the weights are in the folder already."""
    write_json(folder / FILE, asdict(bundle) | {"classes": [entry.to_dict() for entry in bundle.classes]})


def join_bundles(folder: Path, parts: Sequence[tuple[Path, Bundle]]) -> Bundle:
    """Write a bundle of all members of other bundles, which are given with their folders."""
    folder.mkdir(parents=True)
    members = []
    for source, bundle in parts:
        for member in bundle.members:
            name = f"{member.candidate}.safetensors"
            shutil.copyfile(source / member.weights, folder / name)
            members.append(Member(member.candidate, member.model, member.options, name))
    first = parts[0][1]
    joined = Bundle(first.classes, first.background, tuple(members))
    write_description(folder, joined)
    return joined


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle's description.

    Raises:
        StageError: The description is missing or broken.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Bundle(
            classes=tuple(LabelClass.from_dict(entry) for entry in content["classes"]),
            background=content["background"],
            members=tuple(Member(**member) for member in content["members"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise StageError(f"{folder / FILE} is missing or broken; run the stage that writes it again") from None


def bundle_hash(folder: Path) -> str:
    """Return the SHA-256 over the names and bytes of a bundle's files."""
    names = sorted(path.name for path in folder.iterdir())
    text = "".join(f"{name} {file_hash(folder / name)}\n" for name in names)
    return hashlib.sha256(text.encode()).hexdigest()
