"""SegNet (Badrinarayanan et al. 2017; named as related work in Seeds S0, S1 and S4).

The 13 convolutions of VGG-16 with batch normalisation, 2x2 max-pooling that remembers where each maximum was, and the
mirrored decoder: maxima return to their places between zeros, convolution units make them dense, and the last
convolution gives the logits. It differs from the paper in its input, normalised colours instead of normalised local
contrast, and in the decoder's convolutions, which have no bias before batch normalisation.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from segline.config.fields import Pretrained
from segline.models.blocks import ConvBNReLU, pad_to_stride
from segline.models.encoders import backbone

DECODER = ((512, 512, 512, 512), (512, 512, 512, 256), (256, 256, 256, 128), (128, 128, 64), (64, 64))
"""Channels into and out of the convolution units of every decoder stage, deepest first."""
STRIDE = 32


class SegNet(nn.Module):
    """SegNet: images (b, 3, h, w) to logits (b, classes, h, w), any size."""

    def __init__(self, classes: int, *, pretrained: Pretrained = False) -> None:
        super().__init__()
        vgg: Any = backbone("vgg16_bn", pretrained=pretrained)
        self.encoder = nn.ModuleList(between_poolings(vgg.features))
        self.decoder = nn.ModuleList(
            nn.Sequential(*map(ConvBNReLU, channels[:-1], channels[1:])) for channels in DECODER
        )
        self.head = nn.Conv2d(DECODER[-1][-1], classes, kernel_size=3, padding=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, features: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        places = []
        for encode in self.encoder:
            features, place = pool(encode(features))
            places.append(place)
        for decode in self.decoder:
            features = decode(unpool(features, places.pop()))
        return self.head(features)


def between_poolings(layers: nn.Sequential) -> list[nn.Sequential]:
    """The stages of a VGG, their poolings left out."""
    ends = [at for at, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [nn.Sequential(*layers[start:end]) for start, end in zip(starts, ends, strict=True)]


def pool(
    features: Float[Tensor, "b c h w"],
) -> tuple[Float[Tensor, "b c h//2 w//2"], UInt8[Tensor, "b c h//2 w//2"]]:
    """The maxima of 2x2 windows and their place in the window, 0 to 3 in reading order, the first of equals."""
    maxima, index = F.max_pool2d(features, kernel_size=2, return_indices=True)
    width = features.shape[-1]
    place = 2 * (index // width % 2) + index % width % 2
    return maxima, place.to(torch.uint8)


def unpool(maxima: Float[Tensor, "b c h w"], place: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
    """Every value at its place in a 2x2 window of zeros.

    PyTorch's own unpooling is not deterministic on CUDA and cannot be exported to ONNX.
    """
    four = torch.arange(4, dtype=torch.uint8, device=place.device)[:, None, None]
    windows = torch.where(place[:, :, None] == four, maxima[:, :, None], 0)
    return F.pixel_shuffle(windows.flatten(1, 2), 2)
