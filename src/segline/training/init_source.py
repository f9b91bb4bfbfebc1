"""What ``train.init`` stands for: a version in the registry, or a folder, copied to where all trials find it.

An alias is looked up once for a training. The version is kept with the run in MLflow, by the hash of all else that the
training depends on: the same training, continued or repeated, starts from the same version although the alias moved.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segline.artifacts.bundle import FILE, Bundle, bundle_hash, join_bundles, read_bundle
from segline.artifacts.candidates import CHECKPOINT, HISTORY
from segline.config.sections.train import REGISTERED
from segline.errors import SourceError, TrackingError
from segline.files.s3 import SCHEME
from segline.files.transfer import download
from segline.progress import log
from segline.tracking import registry
from segline.tracking.client import Experiment
from segline.tracking.runs import latest_tags
from segline.tracking.tags import INIT, INIT_KEY
from segline.training.checkpoints import CheckpointStore
from segline.training.trial import Init

FOLDER = "init"
"""The folder of the bundle that the trials start from, beside what the losses prepared."""
ELSEWHERE = "give a copy outside data/, as train replaces its folder, or models:/NAME@ALIAS"


def find_init(address: str, experiment: Experiment, key: str, out: Path, folder: Path) -> Init:
    """Copy the bundle that ``train.init`` stands for into a folder of its own.

    Args:
        address: The parameter.
        experiment: The experiment of the training.
        key: The hash of all else that the training depends on, by which the version of an alias is found again.
        out: The folder that the training writes.
        folder: The folder to make.

    Raises:
        SourceError: There is no such folder, or it holds no bundle.
        StageError: A bundle is broken, or of a later version of Segline.
        TrackingError: The registry does not answer, or has no such model, alias or version.
    """
    registered = REGISTERED.fullmatch(address)
    if registered:
        model = Experiment(experiment.uri, registered[1])
        version = _find_version(address, model, experiment, key)
        source, found = f"models:/{model.name}/{version.number}", registry.download_bundle(model, version)
    else:
        source, found = address, _find_folder(address, out)
    _copy_bundle(_bundles(address, found), folder)
    return Init(address=address, source=source, sha256=bundle_hash(folder), folder=folder)


def share_init(init: Init, prepared_dir: Path, store: CheckpointStore) -> Init:
    """Copy a bundle beside what the losses prepared, where the trials find it, also those on other nodes."""
    folder = prepared_dir / FOLDER
    unfinished = folder.with_name(f".{FOLDER}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(init.folder, unfinished)
    shutil.rmtree(folder, ignore_errors=True)  # The part of it that reached the bucket before a kill.
    unfinished.rename(folder)
    store.upload(prepared_dir, [f"{FOLDER}/{path.name}" for path in folder.iterdir()])
    return replace(init, folder=folder)


def _find_version(address: str, model: Experiment, experiment: Experiment, key: str) -> registry.Version:
    """Return the version of an address; that of an alias is the one of before, where the training began before."""
    matched = REGISTERED.fullmatch(address)
    alias = matched[2] if matched else ""
    found = None
    if model.database is None or model.database.exists():
        current = registry.get_by_alias(model, alias) if alias else None
        kept = latest_tags(experiment, INIT_KEY, key).get(INIT, "") if alias else address
        with model.explained_errors(f"looking for {address}"):
            found = registry.get_version(model, int(kept.rpartition("/")[2])) if kept else current
        if found and current and found.number != current.number:
            log(
                f"train: init: {address} was version {found.number} when this training began, and is {current.number} "
                f"now; models:/{model.name}/{current.number} starts from that one"
            )
    if found is None:
        raise TrackingError(
            f"--tracking-uri {model.shown_uri} has no {address}, which train.init names; `segline registry list` and "
            "`show` tell the versions and aliases"
        )
    return found


def _find_folder(address: str, out: Path) -> Path:
    if address.startswith(SCHEME):
        return download(address)
    path = Path(address).expanduser().resolve()
    if path.is_relative_to(out.resolve()):
        raise SourceError(f"train.init: {address} lies in {out}, which this training replaces; {ELSEWHERE}")
    if not path.is_dir():
        raise SourceError(f"train.init: {address!r} is not a folder (looked from {Path.cwd()}); {ELSEWHERE}")
    return path


def _bundles(address: str, folder: Path) -> list[tuple[Path, Bundle]]:
    """Return the bundles of a folder: its own, or those of the candidates in it."""
    files = [folder / FILE] if (folder / FILE).is_file() else sorted(folder.glob(f"*/{FILE}"))
    found = [(file.parent, read_bundle(file.parent)) for file in files]
    if not found:
        raise SourceError(
            f"train.init: {address} holds no {FILE}; give the folder of a candidate, of candidates or of a bundle"
        )
    if any(bundle.classes != found[0][1].classes for _, bundle in found):
        raise SourceError(f"train.init: the candidates in {address} have different classes; give the folder of one")
    return found


def _copy_bundle(parts: Sequence[tuple[Path, Bundle]], folder: Path) -> None:
    """Write a bundle of all members, with the checkpoints and histories of those that have them."""
    join_bundles(folder, parts)
    for source, bundle in parts:
        for name in (CHECKPOINT, HISTORY):
            if len(bundle.members) == 1 and (source / name).is_file():
                shutil.copyfile(source / name, folder / f"{bundle.members[0].candidate}.{name}")
