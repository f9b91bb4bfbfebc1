"""Augmentation on images whose red channel is painted from the label, and on single shapes."""

import cmath
import colorsys
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torchvision.transforms.v2.functional import adjust_saturation

from segline.classes import IGNORED
from segline.config.sections import Augment
from segline.data.augment import MEAN, STD, AugmentParams, augment, generate_parameters, normalize, to_unit

STILL = Augment(**{field.name: 0.0 for field in fields(Augment)})
SIDE = 48
STRIPES = 6


def params_of(count, seed=0, **settings):
    return generate_parameters(count, replace(STILL, **settings), torch.Generator().manual_seed(seed))


def change(images, labels, seed=0, **settings):
    """The changed images and labels of images without distances."""
    *changed, distances = augment(images, labels, params_of(len(images), seed, **settings))
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
    one = labels[:, None].float()
    moved, moved_labels, distances = augment(images, labels, params_of(3), {"one": one})
    assert torch.equal(moved, images)
    assert torch.equal(moved_labels, labels)
    assert torch.equal(distances["one"], one)


@pytest.mark.parametrize(
    ("settings", "axes"),
    [
        ({"flip": 1.0}, [-1]),
        ({"flip_vertical": 1.0}, [-2]),
        ({"flip": 1.0, "flip_vertical": 1.0}, [-1, -2]),
        ({"flip": 1e-9, "elastic": 1e-9}, []),
    ],
    ids=["horizontal", "vertical", "both", "neither"],
)
def test_a_flip_mirrors_both(settings, axes):
    images, labels = noise()
    moved, moved_labels = change(images, labels, **settings)
    torch.testing.assert_close(moved, images.flip(axes), rtol=0, atol=1e-5)
    assert torch.equal(moved_labels, labels.flip(axes))


def test_flips_come_as_often_as_told():
    images = torch.zeros(2000, 3, 2, 2)
    labels = torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint8).expand(2000, 2, 2).contiguous()
    corner = change(images, labels, flip=0.3, flip_vertical=0.6)[1][:, 0, 0]
    for value, expected in enumerate([0.7 * 0.4, 0.3 * 0.4, 0.7 * 0.6, 0.3 * 0.6]):
        share = float((corner == value).float().mean())
        assert share == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / 2000))


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize(
    "amounts",
    [
        {"flip": 0.5},
        {"scale": 0.9},
        {"translate": 1.0},
        {"rotate": 180.0},
        {"elastic": 6.0},
        {"flip": 0.5, "scale": 0.2, "translate": 0.1, "rotate": 5.0},
        {"flip": 0.5, "flip_vertical": 0.5, "scale": 0.9, "translate": 0.3, "rotate": 180.0, "elastic": 3.0},
    ],
    ids=lambda amounts: "-".join(amounts),
)
def test_image_and_label_move_together(amounts, upright):
    """Between two stripes red is interpolated, so that it rounds to the label of the nearer one."""
    images, labels = change(*stripes(32, upright), **amounts)
    red = images[:, 0] * STRIPES
    sure = (labels != IGNORED) & ((red % 1 - 0.5).abs() > 1e-3)
    assert sure.float().mean() > 0.15
    assert torch.equal(red[sure].round().to(torch.uint8), labels[sure])


@pytest.mark.parametrize("seed", range(3))
def test_values_stay_in_range_and_labels_known(seed):
    images, labels = noise()
    labels[labels == 2] = IGNORED
    everything = {field.name: 0.5 for field in fields(Augment)} | {
        "rotate": 180.0,
        "elastic": 5.0,
        "brightness_contrast": 1.0,
        "crop": 40,
    }
    moved, moved_labels = change(images, labels, seed, **everything)
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
    way = centre(change(*marked(slice(23, 25), slice(23, 25)), translate=0.25)[1]) - 23.5
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
    moved, moved_labels = change(images, labels, translate=0.5)
    assert (moved_labels == IGNORED).any((1, 2)).all()
    assert (moved.mean((1, 2, 3)) > 0.4).all()


def test_brightness_contrast_changes_brightness_and_contrast_of_the_image_alone():
    images, labels = noise(images=50)
    images = 0.4 + 0.2 * images
    changed, same_labels = change(images, labels, brightness_contrast=0.3)
    assert torch.equal(same_labels, labels)
    before, after = (pixels.flatten(1) for pixels in (images, changed))
    brightness, contrast = after.mean(1) / before.mean(1), after.std(1) / before.std(1)
    for factor in (brightness, contrast):
        assert 0.7 <= factor.min() < 0.75
        assert 1.25 < factor.max() <= 1.3
    expected = (before - before.mean(1, keepdim=True)) * contrast[:, None] + after.mean(1, keepdim=True)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.4


def yiq(pixels):
    """Luma, and I + iQ, of each pixel, by Python's own colorsys."""
    found = [colorsys.rgb_to_yiq(*map(float, pixel)) for pixel in pixels]
    return np.array([luma for luma, _, _ in found]), np.array([complex(i, q) for _, i, q in found])


def test_hue_and_saturation_turn_and_scale_the_chroma_of_an_image_alone():
    """All pixels of an image by one angle and one factor, at most as large as told, at the same luma."""
    images, labels = noise(images=100, side=3)
    images = 0.4 + 0.2 * images
    changed, same_labels = change(images, labels, hue=0.2, saturation=0.4)
    assert torch.equal(same_labels, labels)
    turns = []
    for before, after in zip(images, changed, strict=True):
        (luma, old), (same_luma, new) = (yiq(pixels.flatten(1).T) for pixels in (before, after))
        assert same_luma == pytest.approx(luma, abs=1e-6)
        turns.append(new[old.argmax()] / old[old.argmax()])
        assert np.abs(new - turns[-1] * old).max() < 1e-6
    angles, factors = zip(*((cmath.phase(turn) / cmath.tau, abs(turn)) for turn in turns), strict=True)
    assert -0.2 <= min(angles) < -0.18
    assert 0.18 < max(angles) <= 0.2
    assert 0.6 <= min(factors) < 0.63
    assert 1.37 < max(factors) <= 1.4
    assert abs(np.corrcoef(angles, factors)[0, 1]) < 0.4


def test_saturation_is_that_of_torchvision():
    """Whose luma differs in the third digit; colours that leave the range are cut in both."""
    images, labels = noise(images=6)
    amounts = params_of(6, saturation=1.0)
    changed = augment(images, labels, amounts)[0]
    for image, after, matrix in zip(images, changed, amounts.color_matrix, strict=True):
        factor = float((matrix.trace() - 1) / 2)
        torch.testing.assert_close(after, adjust_saturation(image, factor), rtol=0, atol=5e-3)


def cubic(distance):
    """Keys's kernel of cubic convolution (1981) with the slope of -0.75 that image libraries use."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def between(control_points, height, width):
    """A field of which 3 x 3 nodes are known, node by node and pixel by pixel; beyond them the outermost goes on."""
    field = np.zeros((height, width))
    for row, column in np.ndindex(height, width):
        y, x = 2 * row / (height - 1), 2 * column / (width - 1)
        for i, j in np.ndindex(7, 7):
            node = control_points[min(max(i - 2, 0), 2), min(max(j - 2, 0), 2)]
            field[row, column] += node * cubic(y - (i - 2)) * cubic(x - (j - 2))
    return field


def test_places_are_those_of_scipy_in_a_crop_that_is_not_square():
    """Rotation and zoom in px about the middle, then a shift in halves of a side, then the displacements."""
    height, width, zoom, angle, shift = 20, 32, 1.1, 0.3, (0.2, -0.1)
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(1, 3, height, width, generator=generator)
    label = torch.randint(0, 9, (1, height, width), dtype=torch.uint8, generator=generator)
    control_points = 2 * torch.randn(1, 2, 3, 3, generator=generator)
    linear = zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    transform = torch.tensor(np.column_stack([linear, shift]), dtype=torch.float32)
    moved, moved_label, _ = augment(image, label, AugmentParams(torch.tensor([zoom]), transform[None], control_points))
    rows, columns = np.mgrid[:height, :width]
    offsets = np.stack([columns - (width - 1) / 2, rows - (height - 1) / 2])
    x, y = np.einsum("ij,jhw->ihw", linear, offsets)
    right, down = (between(part, height, width) for part in control_points[0].double().numpy())
    x += (width - 1) / 2 + shift[0] * width / 2 + right
    y += (height - 1) / 2 + shift[1] * height / 2 + down
    for channel in range(3):
        expected = map_coordinates(image[0, channel].double().numpy(), [y, x], order=1, mode="reflect")
        np.testing.assert_allclose(moved[0, channel].numpy(), expected, atol=1e-4)
    expected_label = map_coordinates(label[0].numpy(), [y, x], order=0, mode="grid-constant", cval=IGNORED)
    assert 0.02 < (expected_label == IGNORED).mean() < 0.9
    assert (moved_label[0].numpy() == expected_label).mean() > 0.995


def test_displacements_are_normal_with_the_deviation_told():
    control_points = params_of(3000, elastic=4.0).control_points.double()
    count = control_points.numel()
    assert float(control_points.std()) == pytest.approx(4, abs=3 * 4 / math.sqrt(2 * count))
    assert float(control_points.mean()) == pytest.approx(0, abs=3 * 4 / math.sqrt(count))
    assert float((control_points.abs() < 4).double().mean()) == pytest.approx(0.6827, abs=0.01)
    correlation = np.corrcoef(control_points.flatten(1).T.numpy()) - np.eye(18)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(3000)


EVERYTHING = {
    "crop": [33, 30],
    "flip": 0.5,
    "flip_vertical": 0.5,
    "scale": 0.2,
    "translate": 0.1,
    "rotate": 10.0,
    "elastic": 3.0,
    "brightness_contrast": 0.3,
    "saturation": 0.5,
    "hue": 0.1,
}


@pytest.mark.parametrize(
    ("crop", "height", "width"),
    [(30, 30, 30), ([20, 45], 20, 45), ([0, 7], SIDE, 7), ([SIDE, 46], SIDE, 46), (90, SIDE, SIDE)],
)
def test_a_crop_is_a_window_of_image_label_and_distances(crop, height, width):
    """The pixels of the label are numbered, so that those of a window say where it was."""
    count = 600
    numbers = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    images = torch.stack([numbers.float(), -numbers.float(), numbers * 2.0]).expand(count, 3, SIDE, SIDE)
    labels, maps = (
        (numbers % 251).to(torch.uint8).expand(count, SIDE, SIDE),
        numbers.float().expand(count, 2, SIDE, SIDE),
    )
    moved, moved_labels, distances = move(images, labels, {"one": maps}, crop=crop)
    corners = set()
    for image, label, distance in zip(moved, moved_labels, distances["one"], strict=True):
        top, left = divmod(int(image[0, 0, 0]), SIDE)
        corners.add((top, left))
        window = slice(top, top + height), slice(left, left + width)
        assert image.shape == (3, height, width)
        assert torch.equal(image, images[0][:, *window])
        assert torch.equal(label, labels[0][window])
        assert torch.equal(distance, maps[0][:, *window])
    for axis, last in enumerate((SIDE - height, SIDE - width)):
        starts = [corner[axis] for corner in corners]
        assert min(starts) == 0
        assert max(starts) == last
        assert last > 20 or {*starts} == {*range(last + 1)}


def move(images, labels, distances, **settings):
    return augment(images, labels, params_of(len(images), **settings), distances)


def test_distances_move_with_the_labels():
    """Maps that are painted from the labels, two channels of one and one of the other; without zoom they are kept."""
    images, labels = noise(images=8)
    one, other = labels[:, None].float() + 1, torch.stack([labels * 2.0 + 1, -1.0 - labels], 1)
    amounts = {
        "flip": 0.5,
        "flip_vertical": 0.5,
        "translate": 0.3,
        "rotate": 180.0,
        "elastic": 3.0,
        "brightness_contrast": 0.5,
    }
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


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


ROWS = [slice(0, 1), slice(2, 3), slice(3, 7), slice(None, None, 2), torch.tensor([5, 1])]


@pytest.mark.parametrize(
    "settings", [EVERYTHING, {"brightness_contrast": 0.3, "hue": 0.1}, {"flip": 0.5}], ids="-".join
)
@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("side", [37, 128])
@pytest.mark.usefixtures("two_threads")
def test_a_worker_with_its_rows_gets_the_bits_of_the_whole_batch(settings, rows, side):
    """With images of any layout in memory, those of a shard have their channels last, and with several threads."""
    images, labels = noise(images=7, side=side)
    maps = {"one": images[:, :2]}
    whole = augment(images.contiguous(memory_format=torch.channels_last), labels, params_of(7, **settings), maps)
    part = augment(images[rows], labels[rows], params_of(7, **settings).take(rows), {"one": maps["one"][rows]})
    for old, new in zip(whole[:2], part[:2], strict=True):
        assert torch.equal(old[rows], new)
    assert torch.equal(whole[2]["one"][rows], part[2]["one"])


def test_how_much_is_drawn_depends_on_the_count_alone():
    """So that what is switched on leaves the rest of a run, and the other amounts of its batch, as they were."""
    states = []
    for settings in (STILL, Augment(), replace(STILL, **EVERYTHING)):
        generator = torch.Generator().manual_seed(0)
        generate_parameters(5, settings, generator)
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])
    everything, less = (
        params_of(5, **EVERYTHING),
        params_of(5, **EVERYTHING | {"hue": 0.0, "saturation": 0.0, "elastic": 0.0}),
    )
    assert torch.equal(everything.transform, less.transform)
    assert torch.equal(everything.brightness_contrast, less.brightness_contrast)
    assert less.color_matrix is less.control_points is None


def test_amounts_go_to_a_device():
    amounts = params_of(5, flip=0.5, brightness_contrast=0.1).to(torch.device("meta"))
    assert {name for name, part in vars(amounts).items() if part is not None} == {
        "zoom",
        "transform",
        "brightness_contrast",
    }
    assert amounts.zoom.is_meta
    assert amounts.transform.is_meta
    assert amounts.brightness_contrast.is_meta


def test_what_is_given_is_not_written_to():
    given = (*noise(), torch.ones(3, 1, SIDE, SIDE))
    kept = [tensor.clone() for tensor in given]
    for settings in (EVERYTHING, {"brightness_contrast": 0.5}, {"hue": 0.2}):
        move(*given[:2], {"one": given[2]}, **settings)
        assert all(map(torch.equal, given, kept))


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
    np.testing.assert_allclose(normalize(unit).permute(0, 2, 3, 1).numpy(), expected, rtol=1e-5, atol=1e-6)
