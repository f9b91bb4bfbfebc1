"""From stored crops to network input, and random changes of a batch on the training device."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from segline.classes import IGNORED

# Channel statistics of ImageNet (RGB, images in 0 to 1), which pretrained encoders expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def to_unit(images: NDArray[np.uint8], device: torch.device) -> Float[Tensor, "b 3 h w"]:
    """Images (b, h, w, 3) in 0 to 255 to floats in 0 to 1, channels last in memory."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


def normalise(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Subtract ImageNet's mean and divide by its standard deviation, per channel."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def augment(
    images: Float[Tensor, "b 3 h w"],
    labels: UInt8[Tensor, "b h w"],
    *,
    flip: float,
    scale: float,
    shift: float,
    rotate: float,
    colour: float,
    generator: torch.Generator,
    distances: Mapping[str, Float[Tensor, "b _ h w"]] = MappingProxyType({}),
) -> tuple[Float[Tensor, "b 3 h w"], UInt8[Tensor, "b h w"], dict[str, Float[Tensor, "b _ h w"]]]:
    """Flip, zoom, shift, rotate and recolour each image of a batch by its own random amounts.

    Args:
        images: in 0 to 1.
        labels: class ids; what comes in from outside the image is ignored.
        flip: probability of a horizontal flip.
        scale: largest relative zoom.
        shift: largest shift as a share of the side.
        rotate: largest rotation in degrees.
        colour: largest relative change of brightness and of contrast.
        generator: a CPU generator, the source of all randomness.
        distances: maps of distances by kind; they move with the labels and stay in px of what they are then maps of.
            What comes in from outside is 0.
    """
    amounts = (torch.rand(6, len(images), generator=generator) * 2 - 1).to(images.device)
    mirrored, zoomed, right, down, angle, light = amounts
    zooms = 1 + scale * zoomed
    contrast = (torch.rand(len(images), generator=generator) * 2 - 1).to(images.device)
    transform = _affine(
        mirror=torch.where((mirrored + 1) / 2 < flip, -1.0, 1.0),
        zoom=zooms,
        angle=angle * math.radians(rotate),
        offset=2 * shift * torch.stack([right, down], dim=1),
    )
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    recoloured = _recolour(moved, colour * light, 1 + colour * contrast)
    moved_distances = {name: _move_distances(maps, grid, zooms) for name, maps in distances.items()}
    return recoloured, _move_labels(labels, grid), moved_distances


def _affine(
    mirror: Float[Tensor, " b"], zoom: Float[Tensor, " b"], angle: Float[Tensor, " b"], offset: Float[Tensor, "b 2"]
) -> Float[Tensor, "b 2 3"]:
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    rows = [torch.stack([mirror * cosine, -sine], dim=1), torch.stack([mirror * sine, cosine], dim=1)]
    return torch.cat([torch.stack(rows, dim=1), offset.unsqueeze(2)], dim=2)


def _move_labels(labels: UInt8[Tensor, "b h w"], grid: Float[Tensor, "b h w 2"]) -> UInt8[Tensor, "b h w"]:
    """Nearest neighbours; sampling pads with 0, so that ``IGNORED`` is made the zero."""
    shifted = labels.unsqueeze(1).float() - IGNORED
    moved = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return (moved.squeeze(1) + IGNORED).round().to(torch.uint8)


def _move_distances(
    maps: Float[Tensor, "b c h w"], grid: Float[Tensor, "b h w 2"], zooms: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Nearest neighbours, as for labels; a grid that is scaled by z shows everything 1 / z times as large."""
    moved = F.grid_sample(maps, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved / zooms.view(-1, 1, 1, 1)


def _recolour(
    images: Float[Tensor, "b 3 h w"], brighter: Float[Tensor, " b"], contrast: Float[Tensor, " b"]
) -> Float[Tensor, "b 3 h w"]:
    mean = images.mean((1, 2, 3), keepdim=True)
    shape = (-1, 1, 1, 1)
    return ((images - mean) * contrast.view(shape) + mean * (1 + brighter.view(shape))).clamp(0, 1)
