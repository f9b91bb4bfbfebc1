"""The bundle: a folder with all that a prediction needs, which train and ensemble write and MLflow keeps.

``model.json`` names the classes and the members; each member is an architecture, its options and a ``.safetensors``
file. One member is a single model, several are an ensemble whose probabilities are averaged. Every option is stored,
also where the user left it to its default: a bundle means the same when a later version changes a default.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from segline.artifacts import bundle_of_0_1
from segline.classes import LabelClass
from segline.config import model_options, tables
from segline.errors import StageError
from segline.files.atomic import write_json
from segline.files.hashing import file_hash

FILE = "model.json"
ENCODER_LICENCE = "encoder-licence.txt"
"""The licence of the weights that a member's encoder started from, where a package ships them."""
FORMAT = 2
"""The number of the format of ``model.json``. Bundles of 0.1 have none.

An architecture that gets another option needs the next number, and a table of the value that older bundles stand for.
"""


@dataclass(frozen=True)
class Member:
    """A model of a bundle.

    Attributes:
        candidate: The name of the candidate that the model comes from.
        model: The architecture's name in ``MODELS``.
        options: The architecture's options.
        weights: The file of the weights, relative to the bundle.
        init: What its training started from: ``source``, an address with a version, ``candidate``, the name of the
            model there, and ``sha256``, the hash of the source; empty if it was no other model.
    """

    candidate: str
    model: str
    options: dict[str, Any]
    weights: str
    init: dict[str, str] = field(default_factory=dict)


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


def write_description(folder: Path, bundle: Bundle) -> Bundle:
    """Write ``model.json`` with every option and return the bundle with them; the weights are there already."""
    members = tuple(
        replace(member, options=model_options.resolve(member.model, member.options)) for member in bundle.members
    )
    resolved = replace(bundle, members=members)
    classes = [entry.to_dict() for entry in bundle.classes]
    write_json(folder / FILE, {"format": FORMAT} | asdict(resolved) | {"classes": classes})
    return resolved


def join_bundles(folder: Path, parts: Sequence[tuple[Path, Bundle]]) -> Bundle:
    """Write a bundle of all members of other bundles, which are given with their folders."""
    folder.mkdir(parents=True)
    members = []
    for source, bundle in parts:
        for member in bundle.members:
            name = f"{member.candidate}.safetensors"
            shutil.copyfile(source / member.weights, folder / name)
            members.append(replace(member, weights=name))
            own = licence_name(member.candidate)
            for licence in (source / ENCODER_LICENCE, source / own):
                if licence.is_file():
                    shutil.copyfile(licence, folder / own)
    first = parts[0][1]
    return write_description(folder, Bundle(first.classes, first.background, tuple(members)))


def licence_name(candidate: str) -> str:
    """Return the file of a bundle of several members that holds the licence of one member's first weights."""
    return f"{candidate}.{ENCODER_LICENCE}"


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle's description, with all options of every member.

    Raises:
        StageError: The description is missing, broken, or of a later version of Segline.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        number = content.get("format", 1)
        if number not in range(1, FORMAT + 1):
            raise StageError(
                f"{path} has format {number!r}, this version reads up to {FORMAT}; install a later segline"
            )
        return Bundle(
            classes=tuple(LabelClass.from_dict(entry) for entry in content["classes"]),
            background=content["background"],
            members=tuple(_read_member(path, number, Member(**member)) for member in content["members"]),
        )
    except (AttributeError, OSError, ValueError, KeyError, TypeError):
        raise StageError(f"{path} is missing or broken; run the stage that writes it again") from None


def _read_member(path: Path, number: int, member: Member) -> Member:
    """Return a member with all options that its architecture has."""
    known = tables.options("models").get(member.model)
    if known is None:
        raise StageError(f"{path}: {member.candidate} has the unknown model {member.model!r}; install a later segline")
    options = bundle_of_0_1.resolve(member.model, member.options) if number == 1 else member.options
    wrong = sorted(known.keys() ^ options.keys())
    if wrong:
        raise StageError(
            f"{path}: {member.candidate} has the options {', '.join(options)} of {member.model}, expected "
            f"{', '.join(known)}; run the stage that writes it again with this version"
        )
    return replace(member, options=options)


def bundle_hash(folder: Path) -> str:
    """Return the SHA-256 over the names and bytes of a bundle's files."""
    names = sorted(path.name for path in folder.iterdir())
    text = "".join(f"{name} {file_hash(folder / name)}\n" for name in names)
    return hashlib.sha256(text.encode()).hexdigest()
