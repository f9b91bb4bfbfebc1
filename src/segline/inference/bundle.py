"""A bundle: a folder that holds everything a prediction needs.

``model.json`` names the classes and the members; each member is an architecture, its options and a
``.safetensors`` file. One member is a single model, several are an ensemble whose probabilities are averaged.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from segline.classes import LabelClass
from segline.errors import StageError
from segline.files.atomic import file_hash, write_json
from segline.models import MODELS

FILE = "model.json"


@dataclass(frozen=True)
class Member:
    """An architecture with its options and weights; ``weights`` is relative to the bundle."""

    candidate: str
    model: str
    options: dict[str, Any]
    weights: str


@dataclass(frozen=True)
class Bundle:
    """Classes in the order of their ids, and the members."""

    classes: tuple[LabelClass, ...]
    background: int | None
    members: tuple[Member, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the bundle as plain values for JSON."""
        return asdict(self) | {"classes": [entry.to_dict() for entry in self.classes]}


def write_bundle(folder: Path, parts: Sequence[tuple[Path, Bundle]]) -> Bundle:
    """Join bundles (each in its folder) into one whose members are all of theirs."""
    folder.mkdir(parents=True)
    members = []
    for place, bundle in parts:
        for member in bundle.members:
            name = f"{member.candidate}.safetensors"
            shutil.copyfile(place / member.weights, folder / name)
            members.append(Member(member.candidate, member.model, member.options, name))
    first = parts[0][1]
    joined = Bundle(first.classes, first.background, tuple(members))
    write_json(folder / FILE, joined.to_dict())
    return joined


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle's description.

    Raises:
        StageError: there is none.
    """
    try:
        content = json.loads((folder / FILE).read_text())
        return Bundle(
            classes=tuple(LabelClass.from_dict(entry) for entry in content["classes"]),
            background=content["background"],
            members=tuple(Member(**member) for member in content["members"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise StageError(f"{folder / FILE} is missing or broken; run the stage that writes it again") from None


def load_models(folder: Path, bundle: Bundle) -> list[nn.Module]:
    """The members' models with their weights, ready to predict, on the GPU where there is one.

    Raises:
        StageError: weights are missing, broken or of another model.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = []
    for member in bundle.members:
        model = MODELS[member.model](len(bundle.classes), **_offline(member.options))
        try:
            model.load_state_dict(load_file(folder / member.weights))
        except (OSError, SafetensorError, RuntimeError):
            again = "run the stage that writes it again"
            raise StageError(f"{folder / member.weights} is missing, broken or of another model; {again}") from None
        models.append(model.eval().to(device).to(memory_format=torch.channels_last))
    return models


def bundle_hash(folder: Path) -> str:
    """The SHA-256 over the names and bytes of a bundle's files."""
    names = sorted(path.name for path in folder.iterdir())
    text = "".join(f"{name} {file_hash(folder / name)}\n" for name in names)
    return hashlib.sha256(text.encode()).hexdigest()


def _offline(options: dict[str, Any]) -> dict[str, Any]:
    """The weights come from the bundle, so that pretrained ones need not be fetched again."""
    return {key: False if key == "pretrained" else value for key, value in options.items()}
