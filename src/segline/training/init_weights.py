"""The start of a trial from another model: its weights with the classes mapped by name, or its last checkpoint.

Which tensors depend on the classes is not declared by the architectures. It is seen in the shapes of the same network
with one class more.
"""

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segline.artifacts.bundle import FILE, Bundle, Member, read_bundle
from segline.artifacts.candidates import CHECKPOINT, HISTORY, PREVIOUS, WEIGHTS
from segline.artifacts.dataset import DatasetInfo
from segline.config import model_options
from segline.config.components import ComponentSpec
from segline.errors import TrainingError
from segline.files.atomic import write_file
from segline.files.locks import machine_lock
from segline.inference.bundle import make_model
from segline.training.last_checkpoint import is_whole
from segline.training.trial import Init, Trial, TrialConfig

PRETRAINED = "pretrained"
"""The option that decides only about weights that are replaced here."""


@dataclass(frozen=True)
class ClassMap:
    """Which classes of a model are those of the data: positions of the same classes in both, and names for messages."""

    old: tuple[int, ...]
    own: tuple[int, ...]
    text: str


def make_started_model(config: TrialConfig, info: DatasetInfo, init: Init) -> nn.Module:
    """Make the network of a trial with the weights that it starts from; nothing is fetched from a hub.

    Raises:
        TrainingError: The bundle has no such network, or its weights are missing or broken.
    """
    bundle = read_bundle(init.folder)
    member = find_member(bundle, config, init)
    model = make_model(member, len(info.classes))
    if not config.settings.resume:
        weights, axes = _read(init, member), class_axes(member, len(info.classes))
        names = [entry.name for entry in bundle.classes]
        model.load_state_dict(map_weights(model.state_dict(), weights, axes, names, info.names))
    return model


def describe_start(config: TrialConfig, info: DatasetInfo, init: Init) -> str:
    """Return a line about what a trial starts from, after a check that it can.

    Raises:
        TrainingError: It cannot, because of its architecture, its weights, its classes or its epochs.
    """
    bundle = read_bundle(init.folder)
    member = find_member(bundle, config, init)
    names = [entry.name for entry in bundle.classes]
    if config.settings.resume:
        epochs = _check_resumed(config, member, names, info, init)
        return f"{init}, {config.name} goes on with {member.candidate} after epoch {epochs}"
    axes = class_axes(member, len(info.classes))
    with torch.device("meta"):
        own = make_model(member, len(info.classes)).state_dict()
    weights = {name: value.to("meta") for name, value in _read(init, member).items()}
    map_weights(own, weights, axes, names, info.names)
    return f"{init}, member {member.candidate}: {map_classes(names, info.names).text}"


def init_record(config: TrialConfig, init: Init) -> dict[str, str]:
    """Return what a candidate tells about its start; see :class:`segline.artifacts.bundle.Member`."""
    member = find_member(read_bundle(init.folder), config, init)
    return {"source": init.source, "candidate": member.candidate, "sha256": init.sha256}


def begin_resumed(trial: Trial, init: Init) -> None:
    """Give a trial that has no checkpoint yet that of the training with which it goes on, and its history."""
    folder = trial.folder
    with machine_lock(folder):
        if (folder / CHECKPOINT).is_file() or (folder / PREVIOUS).is_file():
            return
        member = find_member(read_bundle(init.folder), trial.config, init)
        names = {WEIGHTS: member.weights} | {name: f"{member.candidate}.{name}" for name in (HISTORY, CHECKPOINT)}
        for own, name in names.items():
            write_file(folder / own, partial(shutil.copyfile, init.folder / name))


def find_member(bundle: Bundle, config: TrialConfig, init: Init) -> Member:
    """Return the member with a trial's architecture, the one of the trial's own name before others.

    Raises:
        TrainingError: There is none.
    """
    members = sorted(bundle.members, key=lambda member: member.candidate != config.name)
    if config.settings.resume and len(members) > 1:
        members = [member for member in members if member.candidate == config.name]
    for member in members:
        if not _differences(member, config.model):
            return member
    held = "; ".join(f"{member.candidate} is {_differences(member, config.model)}" for member in members[:5])
    raise TrainingError(
        f"train.init: {init.address} holds no {config.model} for {config.name}"
        f"{f' ({held})' if held else ''}; change train.models to what it holds, or train.init"
    )


def class_axes(member: Member, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the axes of each tensor that count classes; tensors without one are left out.

    Raises:
        TrainingError: A tensor depends on the number of classes in another way.
    """
    with torch.device("meta"):
        own, wider = (make_model(member, count).state_dict() for count in (classes, classes + 1))
    axes = {}
    for name, value in own.items():
        pairs = zip(value.shape, wider[name].shape, strict=True)
        axes[name] = tuple(axis for axis, (size, more) in enumerate(pairs) if size != more)
        if any((value.shape[axis], wider[name].shape[axis]) != (classes, classes + 1) for axis in axes[name]):
            raise TrainingError(
                f"train.init: {name} of {member.model} has the shape {list(value.shape)} for {classes} classes, in "
                "which classes cannot be told apart; start without train.init"
            )
    return {name: found for name, found in axes.items() if found}


def map_classes(old: Sequence[str], own: Sequence[str]) -> ClassMap:
    """Return which classes of a model are those of the data, by their names."""
    same = [name for name in own if name in old]
    new, dropped = [name for name in own if name not in old], [name for name in old if name not in own]
    parts = [f"{len(same)} of {len(own)} classes by name" if new else f"all {len(own)} classes by name"]
    parts += [f"{', '.join(new)} {'is' if len(new) == 1 else 'are'} new"] if new else []
    parts += [f"{', '.join(dropped)} {'is' if len(dropped) == 1 else 'are'} dropped"] if dropped else []
    return ClassMap(tuple(map(old.index, same)), tuple(map(own.index, same)), ", ".join(parts))


def map_weights(
    fresh: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    axes: Mapping[str, tuple[int, ...]],
    old: Sequence[str],
    own: Sequence[str],
) -> dict[str, Tensor]:
    """Return the weights of a network whose classes are others.

    Args:
        fresh: The state of the new network; what belongs to a new class is taken from it.
        weights: The state of the old one.
        axes: The axes that count classes, by tensor.
        old: The names of the old network's classes.
        own: The names of the new network's classes.

    Raises:
        TrainingError: A tensor is missing, or has another shape than the old classes explain.
    """
    classes, mapped = map_classes(old, own), {}
    for name, value in fresh.items():
        counted = axes.get(name, ())
        shape = tuple(len(old) if axis in counted else size for axis, size in enumerate(value.shape))
        if name not in weights or tuple(weights[name].shape) != shape:
            got = f"has the shape {list(weights[name].shape)}" if name in weights else "is missing"
            raise TrainingError(f"train.init: {name} {got}, expected {list(shape)}; the bundle is of another network")
        mapped[name] = value.clone() if counted else weights[name]
        if counted:
            part = weights[name]
            for axis in counted:
                part = part.index_select(axis, _index(classes.old, part))
            _place(mapped[name], part, counted, classes.own)
    return mapped


def _place(target: Tensor, part: Tensor, axes: Sequence[int], positions: tuple[int, ...]) -> None:
    """Write a tensor to the given positions of each of the axes."""
    if not axes:
        target.copy_(part)
        return
    chosen = target.index_select(axes[0], _index(positions, target))
    _place(chosen, part, axes[1:], positions)
    target.index_copy_(axes[0], _index(positions, target), chosen)


def _index(positions: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.tensor(positions, dtype=torch.long, device=like.device)


def _differences(member: Member, spec: ComponentSpec) -> str:
    """Return how a member's architecture differs from a trial's, in words; empty if it does not."""
    if member.model != spec.name:
        return member.model
    wanted = model_options.resolve(spec.name, spec.options)
    other = [key for key, value in wanted.items() if key != PRETRAINED and member.options[key] != value]
    shown = ", ".join(f"{key} {member.options[key]} in place of {wanted[key]}" for key in other)
    return f"{member.model} with {shown}" if other else ""


def _read(init: Init, member: Member) -> dict[str, Tensor]:
    try:
        return load_file(init.folder / member.weights)
    except (OSError, SafetensorError):
        raise TrainingError(
            f"{init}: the weights of {member.candidate} are missing or broken; {FILE} names them"
        ) from None


def _check_resumed(config: TrialConfig, member: Member, names: Sequence[str], info: DatasetInfo, init: Init) -> int:
    """Return the number of epochs that a training has which is to go on, after a check that it can."""
    checkpoint, history = (init.folder / f"{member.candidate}.{name}" for name in (CHECKPOINT, HISTORY))
    if not history.is_file() or not is_whole(checkpoint):
        raise TrainingError(
            f"train.resume: {member.candidate} in {init.address} has no whole {CHECKPOINT}; only what was trained with "
            "train.keep_checkpoints goes on; set train.resume: false to start from its weights"
        )
    if list(names) != list(info.names):
        raise TrainingError(
            f"train.resume: {init.address} was trained with the classes {', '.join(names)}, and the data have "
            f"{', '.join(info.names)}; set train.resume: false, which maps them by name"
        )
    with history.open(newline="", encoding="utf-8") as stream:
        epochs = sum(1 for _ in csv.DictReader(stream))
    if epochs >= config.settings.epochs:
        raise TrainingError(
            f"train.epochs: got {config.settings.epochs}, expected more than the {epochs} that {member.candidate} in "
            f"{init.address} has"
        )
    return epochs
