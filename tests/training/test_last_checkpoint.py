"""A damaged checkpoint: the one before takes its place, and the end has the bits of an undisturbed run."""

import os
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_engine import CLASSES, SETTINGS, new_run, same_weights, splits
from torch import nn

from segline.artifacts.candidates import CHECKPOINT, PREVIOUS, WEIGHTS
from segline.errors import TrainingError
from segline.files.atomic import write_text
from segline.training.engine import fit
from segline.training.saved_run import is_readable

__all__ = ["splits"]


def small_run(splits, **settings):
    torch.manual_seed(3)
    return new_run(splits, settings=replace(SETTINGS, **settings), model=nn.Conv2d(3, CLASSES, 3, padding=1))


def truncate(path, part):
    os.truncate(path, int(path.stat().st_size * part))


def flip(path, part):
    content = bytearray(path.read_bytes())
    content[int(len(content) * part)] ^= 4
    path.write_bytes(content)


def flip_a_weight(path, _):
    """In the middle of the stored numbers, where no reader would stumble."""
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["model"]["bias"].numpy().tobytes()
    content[content.index(weight) + 3] ^= 1
    path.write_bytes(content)


DAMAGES = [(truncate, part) for part in (0.0, 0.3, 0.6, 0.99)] + [(flip_a_weight, 0.0)]


@pytest.fixture(scope="module")
def undisturbed(splits, tmp_path_factory):
    folder, run = tmp_path_factory.mktemp("undisturbed"), small_run(splits)
    return list(fit(run, folder)), run.model.state_dict(), load_file(folder / WEIGHTS)


def assert_ends_the_same(run, folder, undisturbed):
    assert list(fit(run, folder)) == undisturbed[0]
    assert same_weights(run.model.state_dict(), undisturbed[1])
    assert same_weights(load_file(folder / WEIGHTS), undisturbed[2])


@pytest.mark.parametrize(("damage", "part"), DAMAGES)
@pytest.mark.parametrize("epochs", [2, 3])
def test_it_goes_on_from_the_checkpoint_before(splits, tmp_path, undisturbed, damage, part, epochs):
    list(islice(fit(small_run(splits), tmp_path), epochs))
    damage(tmp_path / CHECKPOINT, part)
    run = small_run(splits)
    assert_ends_the_same(run, tmp_path, undisturbed)
    assert run.note == f"{tmp_path / CHECKPOINT} is damaged; training goes on from the checkpoint before it"


@pytest.mark.parametrize(("damage", "part"), DAMAGES)
def test_if_both_are_damaged_it_starts_anew_and_says_so(splits, tmp_path, undisturbed, damage, part):
    list(islice(fit(small_run(splits), tmp_path), 3))
    damage(tmp_path / CHECKPOINT, part)
    damage(tmp_path / PREVIOUS, part)
    run = small_run(splits)
    assert_ends_the_same(run, tmp_path, undisturbed)
    said = "is damaged, and no checkpoint before it is whole; the trial starts anew"
    assert run.note == f"{tmp_path / CHECKPOINT} {said}"


def test_a_child_does_not_start_anew(splits, tmp_path):
    list(islice(fit(small_run(splits), tmp_path), 1))
    truncate(tmp_path / CHECKPOINT, 0.5)
    run = small_run(splits)
    run.needs_checkpoint = True
    with pytest.raises(TrainingError, match=r"last\.pt is damaged or missing, and a trial that goes on"):
        list(fit(run, tmp_path))


def test_cut_between_the_names_it_goes_on(splits, tmp_path, undisturbed):
    """On a file system without links, only the checkpoint before is there for a moment."""
    list(islice(fit(small_run(splits), tmp_path), 2))
    (tmp_path / CHECKPOINT).unlink()
    run = small_run(splits)
    assert_ends_the_same(run, tmp_path, undisturbed)
    assert run.note == ""


def test_a_checkpoint_amid_an_epoch_is_kept_as_well(splits, tmp_path, undisturbed):
    run = small_run(splits, checkpoint_minutes=1e-9)
    list(islice(fit(run, tmp_path), 2))
    flip_a_weight(tmp_path / CHECKPOINT, 0.0)
    again = small_run(splits, checkpoint_minutes=1e-9)
    assert_ends_the_same(again, tmp_path, undisturbed)


def test_a_flip_is_noticed_or_does_no_harm(splits, tmp_path):
    list(islice(fit(small_run(splits), tmp_path), 1))
    path = tmp_path / CHECKPOINT
    content, expected = path.read_bytes(), torch.load(path, weights_only=True)["model"]["weight"]
    for part in np.linspace(0, 0.999, 60):
        path.write_bytes(content)
        flip(path, part)
        if is_readable(path):
            assert torch.equal(torch.load(path, weights_only=True)["model"]["weight"], expected)


def test_a_file_and_its_name_are_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    """The order of calls is what a power cut tests."""
    done, sync, rename = [], os.fsync, os.replace

    def noting_sync(descriptor):
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).split(".")[0] or "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), rename(*names)))
    write_text(tmp_path / "name.txt", "content")
    assert done == ["file", "rename", tmp_path.name]
