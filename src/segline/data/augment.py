"""Conversion of stored crops to network input, and random augmentation of a batch on the training device."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from segline.classes import IGNORED
from segline.config.fields import height_and_width
from segline.config.sections import Augment

# Channel statistics of ImageNet (RGB, images in 0 to 1), which pretrained encoders expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Luma and the two axes of chroma from RGB: the FCC's constants of NTSC, as in Python's colorsys.
YIQ = ((0.30, 0.59, 0.11), (0.599, -0.2773, -0.3217), (0.213, -0.5251, 0.3121))


def to_unit(images: NDArray[np.uint8], device: torch.device) -> Float[Tensor, "b 3 h w"]:
    """Convert images (b, h, w, 3) of 0 to 255 to floats of 0 to 1, channels last in memory."""
    return to_device(torch.from_numpy(images), device).permute(0, 3, 1, 2).float().div_(255)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a copy on a GPU without waiting for the GPU's pending work; on a CPU the same tensor."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def normalize(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Subtract ImageNet's mean and divide by its standard deviation, per channel."""
    mean, std = (to_device(torch.tensor(values).view(3, 1, 1), images.device) for values in (MEAN, STD))
    return (images - mean).div_(std)


@dataclass(frozen=True)
class AugmentParams:
    """The parameters of the augmentation of each image of a batch; None for a part that changes no image.

    Attributes:
        crop: The height and width of the window that is cut from each image, in px; 0 or more than the image has is all
            of a side.
        position: The place of the window, from 0 at the top or left of the image to 1 at its bottom or right.
        zoom: The factor by which a side shows more of the source.
        transform: The matrix from offsets in px from the center of the result to those from the center of the source;
            its last column is the translation, in halves of a side.
        control_points: The displacements right and down, in px, at the points of a grid of 3 rows and 3 columns.
        color_matrix: The matrix that maps RGB to RGB.
        brightness_contrast: The factors of brightness and of contrast.
    """

    zoom: Float[Tensor, " b"]
    transform: Float[Tensor, "b 2 3"] | None = None
    control_points: Float[Tensor, "b 2 3 3"] | None = None
    color_matrix: Float[Tensor, "b 3 3"] | None = None
    brightness_contrast: Float[Tensor, "b 2"] | None = None
    crop: tuple[int, int] | None = None
    position: Float[Tensor, "b 2"] | None = None

    def take(self, rows: slice | Integer[Tensor, " _"]) -> "AugmentParams":
        """Return the parameters of these images alone."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device) -> "AugmentParams":
        """Return the same parameters on a device."""
        return self._each(lambda part: to_device(part, device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "AugmentParams":
        parts: dict[str, Any] = {
            name: change(part) if isinstance(part, Tensor) else part for name, part in vars(self).items()
        }
        return AugmentParams(**parts)


def generate_parameters(count: int, settings: Augment, generator: torch.Generator) -> AugmentParams:
    """Return random parameters for a batch, within the settings.

    Every worker generates the parameters of the whole batch and takes its own rows, so that many workers do what one
    would do. The number of random numbers that are drawn depends on ``count`` alone.

    Args:
        count: The number of images in the batch.
        settings: The largest changes, and the probability of flips.
        generator: A CPU generator, the source of all randomness.
    """
    uniform = torch.rand(10, count, generator=generator) * 2 - 1
    normal = torch.randn(count, 2, 3, 3, generator=generator)
    position = torch.rand(count, 2, generator=generator)
    zoom = 1 + settings.scale * uniform[0]
    return AugmentParams(
        zoom=zoom,
        transform=_affine_transform(zoom, uniform[1:6], settings),
        control_points=settings.elastic * normal if settings.elastic else None,
        color_matrix=_color_matrix(uniform[6:8], settings),
        brightness_contrast=1 + settings.brightness_contrast * uniform[8:].mT if settings.brightness_contrast else None,
        crop=height_and_width(settings.crop) if settings.crop else None,
        position=position if settings.crop else None,
    )


def _affine_transform(
    zoom: Float[Tensor, " b"], uniform: Float[Tensor, "5 b"], settings: Augment
) -> Float[Tensor, "b 2 3"] | None:
    s = settings
    if not any((s.flip, s.flip_vertical, s.scale, s.translate, s.rotate, s.elastic)):
        return None
    mirrored, upended, turned, right, down = uniform
    mirror, upend = _signs(mirrored, s.flip), _signs(upended, s.flip_vertical)
    angle = math.radians(s.rotate) * turned
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    across = [mirror * cosine, upend * -sine, 2 * s.translate * right]
    along = [mirror * sine, upend * cosine, 2 * s.translate * down]
    return torch.stack([torch.stack(across, dim=1), torch.stack(along, dim=1)], dim=1)


def _signs(uniform: Float[Tensor, " b"], probability: float) -> Float[Tensor, " b"]:
    """Return -1 with this probability, otherwise 1."""
    return torch.where((uniform + 1) / 2 < probability, -1.0, 1.0)


def _color_matrix(uniform: Float[Tensor, "2 b"], settings: Augment) -> Float[Tensor, "b 3 3"] | None:
    """Return the matrix that scales and rotates the plane of I and Q, which keeps the luma Y of every color."""
    if not (settings.saturation or settings.hue):
        return None
    saturation, angle = 1 + settings.saturation * uniform[0], math.tau * settings.hue * uniform[1]
    to_yiq = torch.tensor(YIQ)
    turn = torch.zeros(len(angle), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * angle.cos()
    turn[:, 2, 1] = saturation * angle.sin()
    turn[:, 1, 2] = -turn[:, 2, 1]
    return to_yiq.inverse() @ turn @ to_yiq


def augment(
    images: Float[Tensor, "b 3 h w"],
    labels: UInt8[Tensor, "b h w"],
    params: AugmentParams,
    distances: Mapping[str, Float[Tensor, "b _ h w"]] = MappingProxyType({}),
) -> tuple[Float[Tensor, "b 3 y x"], UInt8[Tensor, "b y x"], dict[str, Float[Tensor, "b _ y x"]]]:
    """Crop, flip, zoom, translate, rotate, deform and recolor each image of a batch by its own parameters.

    The crop comes first: what lies outside it is not seen, and the results have its size (y, x). The result of an image
    has the same bits whatever else is in the batch.

    Args:
        images: The images, 0 to 1; beyond their borders they are reflected.
        labels: The class ids; pixels from outside the image become ignored.
        params: The parameters of these images, on their device.
        distances: The distance maps by kind. They move with the labels, and a zoom rescales their values, so that these
            remain distances in px of the result. Pixels from outside are 0. An elastic deformation bends the maps and
            leaves their values.
    """
    moved = dict(distances)
    if params.crop is not None and params.position is not None:
        window = _random_window(params.crop, params.position, *labels.shape[1:])
        images, labels = _cut(images, window), _cut(labels[:, None], window)[:, 0]
        moved = {name: _cut(maps, window) for name, maps in distances.items()}
    if params.transform is not None:
        grid = _sampling_grid(params.transform, params.control_points, *labels.shape[1:])
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        labels = _move_labels(labels, grid)
        moved = {name: _move_distances(maps, grid, params.zoom) for name, maps in moved.items()}
    if params.color_matrix is not None:
        images = _apply_color_matrix(images, params.color_matrix)
    if params.brightness_contrast is not None:
        images = _adjust_brightness_contrast(images, params.brightness_contrast)
    return images, labels, moved


def _random_window(
    crop: tuple[int, int], position: Float[Tensor, "b 2"], height: int, width: int
) -> tuple[Integer[Tensor, "b h"], Integer[Tensor, "b w"]]:
    """Return the rows and the columns of each image's window; every place within the image is equally probable."""
    spans = []
    for length, side, share in zip((height, width), crop, position.unbind(1), strict=True):
        shown = min(side or length, length)
        start = (share * (length - shown + 1)).long().clamp_(max=length - shown)
        spans.append(start[:, None] + torch.arange(shown, device=position.device))
    return spans[0], spans[1]


def _cut(
    values: Shaped[Tensor, "b c y x"], window: tuple[Integer[Tensor, "b h"], Integer[Tensor, "b w"]]
) -> Shaped[Tensor, "b c h w"]:
    """Return these rows and columns of each image, channels last in memory; a GPU need not be waited for."""
    rows, columns = window
    images = torch.arange(len(values), device=values.device)[:, None, None]
    cut: Tensor = values.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2)


def _sampling_grid(
    transform: Float[Tensor, "b 2 3"], control_points: Float[Tensor, "b 2 3 3"] | None, height: int, width: int
) -> Float[Tensor, "b {height} {width} 2"]:
    """Return the source position of each pixel, in halves of a side from the center, as ``F.grid_sample`` expects.

    The contributions of its column and of its row are summed; ``F.affine_grid`` multiplies matrices, which is many
    times as slow.
    """
    halves = to_device(torch.tensor([[width / 2], [height / 2]]), transform.device)
    from_columns, from_rows, shift = transform.unsqueeze(2).unbind(3)
    by_column = from_columns * _centered_positions(width, transform.device) / halves + shift
    by_row = from_rows * _centered_positions(height, transform.device) / halves
    grid = by_column.unsqueeze(2) + by_row.unsqueeze(3)
    if control_points is not None:
        grid += _interpolate_control_points(control_points / halves.unsqueeze(2), height, width)
    return grid.permute(0, 2, 3, 1)


def _centered_positions(side: int, device: torch.device) -> Float[Tensor, " {side}"]:
    return torch.arange(side, device=device) - (side - 1) / 2


def _interpolate_control_points(
    control_points: Float[Tensor, "b 2 3 3"], height: int, width: int
) -> Float[Tensor, "b 2 {height} {width}"]:
    """Return bicubic values for every pixel between 3 x 3 points, the outermost of which lie on the outermost pixels.

    Source: Ronneberger et al. 2015, U-Net, section 3.1 (Seed S1, section 7.3.4). The sums are written out because the
    matrix product of a whole batch may be rounded differently from that of a part of it.
    """
    by_row, by_column = _bicubic_weights(height, control_points.device), _bicubic_weights(width, control_points.device)
    rows = (control_points.unsqueeze(3) * by_column).sum(4)
    first, second, third = (rows[:, :, node, None] * by_row[:, node, None] for node in range(3))
    return first + second + third


def _bicubic_weights(side: int, device: torch.device) -> Float[Tensor, "{side} 3"]:
    """Return the weights of three points at each pixel of a side."""
    each = torch.eye(3, device=device)[None, None]
    return F.interpolate(each, size=(side, 3), mode="bicubic", align_corners=True)[0, 0]


def _move_labels(labels: UInt8[Tensor, "b h w"], grid: Float[Tensor, "b h w 2"]) -> UInt8[Tensor, "b h w"]:
    """Sample nearest neighbors. Sampling pads with 0, so ``IGNORED``, the largest number, is mapped to 0 before."""
    inverted = (IGNORED - labels).unsqueeze(1).float()
    moved = F.grid_sample(inverted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return IGNORED - moved.squeeze(1).to(torch.uint8)


def _move_distances(
    maps: Float[Tensor, "b c h w"], grid: Float[Tensor, "b h w 2"], zoom: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Sample nearest neighbors, as for labels; a zoom by z shows the source 1 / z times as large."""
    moved = F.grid_sample(maps, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved.div_(zoom.view(-1, 1, 1, 1))


def _apply_color_matrix(
    images: Float[Tensor, "b 3 h w"], color_matrix: Float[Tensor, "b 3 3"]
) -> Float[Tensor, "b 3 h w"]:
    """Apply each image's matrix; the sum is written out, as in :func:`_interpolate_control_points`, for equal bits."""
    red, green, blue = (images[:, None, channel] * color_matrix[:, :, channel, None, None] for channel in range(3))
    return red.add_(green).add_(blue).clamp_(0, 1)


def _adjust_brightness_contrast(
    images: Float[Tensor, "b 3 h w"], brightness_contrast: Float[Tensor, "b 2"]
) -> Float[Tensor, "b 3 h w"]:
    """Scale the mean of an image by its brightness factor, and the deviations from the mean by its contrast factor."""
    # The mean over a whole image is split among threads when the batch is one image, and is then rounded differently.
    mean = images.mean(3).mean((1, 2))
    brightness, contrast = brightness_contrast.unbind(1)
    offset = mean * (brightness - contrast)
    return (images * contrast.view(-1, 1, 1, 1)).add_(offset.view(-1, 1, 1, 1)).clamp_(0, 1)
