"""Augmentation on images whose red channel is painted from the label, and on single shapes."""

import math

import numpy as np
import pytest
import torch

from segline.classes import IGNORED
from segline.data.augment import MEAN, STD, augment, normalise, to_unit

NONE = {"flip": 0.0, "scale": 0.0, "shift": 0.0, "rotate": 0.0, "colour": 0.0}
SIDE = 48
STRIPES = 6


def change(images, labels, seed=0, **amounts):
    """The changed images and labels of images without distances."""
    *changed, distances = augment(images, labels, **NONE | amounts, generator=torch.Generator().manual_seed(seed))
    assert distances == {}
    return changed


def noise(images=3, side=SIDE):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.rand(images, 3, side, side, generator=generator)
    return pixels, torch.randint(0, STRIPES, (images, side, side), dtype=torch.uint8, generator=generator)


def stripes(images, upright):
    """Labels in stripes of 8 px, each one more than that before it; red is their share of the largest."""
    row = (torch.arange(SIDE) // (SIDE // STRIPES)).to(torch.uint8)
    labels = row.expand(SIDE, SIDE) if upright else row.expand(SIDE, SIDE).T
    pixels = torch.zeros(images, 3, SIDE, SIDE)
    pixels[:, 0] = labels.float() / STRIPES
    return pixels, labels.expand(images, SIDE, SIDE).contiguous()


def test_no_amounts_change_nothing():
    images, labels = noise()
    moved, moved_labels = change(images, labels)
    torch.testing.assert_close(moved, images, rtol=0, atol=1e-5)
    assert torch.equal(moved_labels, labels)


def test_a_flip_mirrors_both():
    images, labels = noise()
    moved, moved_labels = change(images, labels, flip=1.0)
    torch.testing.assert_close(moved, images.flip(-1), rtol=0, atol=1e-5)
    assert torch.equal(moved_labels, labels.flip(-1))


def test_flips_come_as_often_as_told():
    images = torch.zeros(2000, 3, 2, 2)
    labels = torch.tensor([[[0, 1], [0, 1]]], dtype=torch.uint8).expand(2000, 2, 2).contiguous()
    flipped = (change(images, labels, flip=0.3)[1][:, 0, 0] == 1).float().mean()
    assert float(flipped) == pytest.approx(0.3, abs=3 * math.sqrt(0.3 * 0.7 / 2000))


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize(
    "amounts",
    [
        {"flip": 0.5},
        {"scale": 0.9},
        {"shift": 1.0},
        {"rotate": 180.0},
        {"flip": 0.5, "scale": 0.2, "shift": 0.1, "rotate": 5.0},
        {"flip": 0.5, "scale": 0.9, "shift": 0.3, "rotate": 180.0},
    ],
    ids=lambda amounts: "-".join(amounts),
)
def test_image_and_label_move_together(amounts, upright):
    """Between two stripes red is interpolated, so that it rounds to the label of the nearer one."""
    images, labels = change(*stripes(16, upright), **amounts)
    red = images[:, 0] * STRIPES
    sure = (labels != IGNORED) & ((red % 1 - 0.5).abs() > 1e-3)
    assert sure.float().mean() > 0.2
    assert torch.equal(red[sure].round().to(torch.uint8), labels[sure])


@pytest.mark.parametrize("seed", range(3))
def test_values_stay_in_range_and_labels_known(seed):
    images, labels = noise()
    labels[labels == 2] = IGNORED
    moved, moved_labels = change(images, labels, seed, flip=0.5, scale=0.9, shift=0.5, rotate=180.0, colour=1.0)
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert moved.isfinite().all()
    assert set(moved_labels.unique().tolist()) == {0, 1, 3, 4, 5, IGNORED}


def test_every_class_id_survives():
    labels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(change(torch.zeros(1, 3, 16, 16), labels)[1], labels)


def centre(labels):
    """Row and column of the middle of the marked pixels of each image."""
    return np.array([np.argwhere(label == 1).mean(0) for label in labels.numpy()])


def marked(rows, columns, images=200):
    """Images of class 0 with a block of class 1."""
    labels = torch.zeros(images, SIDE, SIDE, dtype=torch.uint8)
    labels[:, rows, columns] = 1
    return torch.zeros(images, 3, SIDE, SIDE), labels


def test_a_shift_goes_at_most_as_far_as_told_and_every_way():
    way = centre(change(*marked(slice(23, 25), slice(23, 25)), shift=0.25)[1]) - 23.5
    reach = 0.25 * SIDE
    assert (np.abs(way) <= reach + 0.5).all()
    assert (way.min(0) < -0.9 * reach).all()
    assert (way.max(0) > 0.9 * reach).all()


def test_a_zoom_is_at_most_as_strong_as_told_and_goes_both_ways():
    """The grid is scaled, so that a share of 0.2 makes a block 1 / 1.2 to 1 / 0.8 times as large."""
    areas = (change(*marked(slice(12, 36), slice(12, 36)), scale=0.2)[1] == 1).sum((1, 2)).sqrt() / 24
    assert areas.min() >= 1 / 1.2 - 1 / 24
    assert areas.max() <= 1 / 0.8 + 1 / 24
    assert areas.min() < 0.87
    assert areas.max() > 1.2


def test_a_rotation_keeps_the_distance_and_is_at_most_as_large_as_told():
    row, column = (centre(change(*marked(slice(23, 25), slice(39, 41)), rotate=30.0)[1]) - 23.5).T
    assert np.hypot(row, column) == pytest.approx(16, abs=1)
    angles = np.degrees(np.arctan2(row, column))
    assert np.abs(angles).max() <= 30 + 2
    assert angles.min() < -25
    assert angles.max() > 25


def test_what_comes_in_from_outside_is_ignored_and_the_image_reflected():
    images, labels = noise(images=20)
    moved, moved_labels = change(images, labels, shift=0.5)
    assert (moved_labels == IGNORED).any((1, 2)).all()
    assert (moved.mean((1, 2, 3)) > 0.4).all()


def test_colour_changes_brightness_and_contrast_of_the_image_alone():
    images, labels = noise(images=50)
    images = 0.4 + 0.2 * images
    changed, same_labels = change(images, labels, colour=0.3)
    assert torch.equal(same_labels, labels)
    before, after = (pixels.flatten(1) for pixels in (images, changed))
    brightness, contrast = after.mean(1) / before.mean(1), after.std(1) / before.std(1)
    for factor in (brightness, contrast):
        assert 0.7 <= factor.min() < 0.75
        assert 1.25 < factor.max() <= 1.3
    expected = (before - before.mean(1, keepdim=True)) * contrast[:, None] + after.mean(1, keepdim=True)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.4


EVERYTHING = {"flip": 0.5, "scale": 0.2, "shift": 0.1, "rotate": 10.0, "colour": 0.3}


def move(images, labels, distances, **amounts):
    return augment(images, labels, **NONE | amounts, generator=torch.Generator().manual_seed(0), distances=distances)


def test_distances_move_with_the_labels():
    """Maps that are painted from the labels, two channels of one and one of the other; without zoom they are kept."""
    images, labels = noise(images=8)
    one, other = labels[:, None].float() + 1, torch.stack([labels * 2.0 + 1, -1.0 - labels], 1)
    amounts = {"flip": 0.5, "shift": 0.3, "rotate": 180.0, "colour": 0.5}
    moved, moved_labels, distances = move(images, labels, {"one": one, "other": other}, **amounts)
    there = moved_labels != IGNORED
    assert 0.3 < there.float().mean() < 1
    assert torch.equal(distances["one"][:, 0][there], moved_labels[there].float() + 1)
    assert torch.equal(distances["other"][:, 0][there], moved_labels[there] * 2.0 + 1)
    assert torch.equal(distances["other"][:, 1][there], -1.0 - moved_labels[there])
    assert not distances["one"][:, 0][~there].any()
    alone, labels_alone = change(images, labels, **amounts)
    assert torch.equal(alone, moved)
    assert torch.equal(labels_alone, moved_labels)


def test_distances_grow_and_shrink_with_what_is_shown():
    """A stripe's distance to the block beside it, measured in the zoomed labels, is that of the zoomed maps."""
    images, labels = marked(slice(0, SIDE), slice(0, 12), images=100)
    column = torch.arange(SIDE) - 11.5
    signed = column.expand(100, 1, SIDE, SIDE).contiguous()
    _, moved, distances = move(images, labels, {"signed": signed}, scale=0.4)
    row, where = moved[:, SIDE // 2], distances["signed"][:, 0, SIDE // 2]
    first = (row == 1).sum(1, keepdim=True) + (row == IGNORED).sum(1, keepdim=True) // 2
    expected = torch.arange(SIDE) - (first - 0.5)
    there = (row != IGNORED) & (first < SIDE)
    assert there.float().mean() > 0.7
    # The contour falls between two pixels, and a nearest neighbour is up to half a px off, before it is magnified.
    assert ((where - expected).abs()[there] <= 1 / 0.6 + 0.5).all()
    assert float((where / expected)[there & (expected > 20)].mean()) == pytest.approx(1, abs=0.02)


def test_a_seed_gives_the_same_bits_and_another_seed_others():
    images, labels = noise()
    first, again, other = (change(images, labels, seed, **EVERYTHING) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])


def test_the_images_of_a_batch_do_not_touch_one_another():
    images, labels = noise(images=4)
    before = change(images, labels, **EVERYTHING)
    images[2], labels[2] = 1 - images[2], 0
    for old, new in zip(before, change(images, labels, **EVERYTHING), strict=True):
        assert [torch.equal(*pair) for pair in zip(old, new, strict=True)] == [True, True, False, True]


def test_the_images_of_a_batch_are_changed_each_in_its_own_way():
    images, labels = noise(images=1)
    moved, moved_labels = change(images.expand(4, -1, -1, -1), labels.expand(4, -1, -1), **EVERYTHING)
    for first in range(4):
        for second in range(first):
            assert not torch.equal(moved[first], moved[second])
            assert not torch.equal(moved_labels[first], moved_labels[second])


def test_stored_images_become_normalised_input():
    stored = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    unit = to_unit(stored, torch.device("cpu"))
    assert unit.shape == (2, 3, 5, 7)
    expected = (stored / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(normalise(unit).permute(0, 2, 3, 1).numpy(), expected, rtol=1e-5, atol=1e-6)
