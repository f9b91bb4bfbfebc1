"""A small WAD folder, and shards of noise, for the stages."""

import numpy as np
import pytest
from grids import without_ray, write_noise
from PIL import Image

# Background as 0 and as 255, two cars, a person, a truck, and a group of cars.
VALUES = (0, 255, 33_001, 33_002, 36_001, 38_007, 161)


@pytest.fixture
def wad(tmp_path):
    """Twelve pairs of 40 x 48 px from four drives, with boxes of objects at random places."""
    root = tmp_path / "wad"
    for number in range(12):
        rng = np.random.default_rng(number)
        label = np.zeros((40, 48), np.uint16)
        for value in VALUES:
            top, left = rng.integers(0, 32), rng.integers(0, 40)
            label[top : top + rng.integers(2, 12), left : left + rng.integers(2, 12)] = value
        name = f"17090{number % 4}_{number:09d}_Camera_5"
        for folder in ("train_color", "train_label"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(root / "train_color" / f"{name}.jpg")
        Image.fromarray(label).save(root / "train_label" / f"{name}_instanceIds.png")
    return root


@pytest.fixture
def dataset_dir(tmp_path):
    """A dataset of noise, as label writes it."""
    return write_noise(tmp_path)


@pytest.fixture
def trained_here(monkeypatch):
    """Grids are trained in this process, where what is tried is no matter of Ray."""
    without_ray(monkeypatch)
