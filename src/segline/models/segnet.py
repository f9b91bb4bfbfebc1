"""SegNet (Badrinarayanan et al. 2017; named as related work in Seeds S0, S1 and S4).

The encoder has the 13 convolutions of VGG-16 with batch normalisation, and 2x2 max-pooling that records the position of
each maximum. The decoder mirrors it: unpooling puts the maxima back at their positions between zeros, convolutions with
batch normalisation and ReLU make them dense, and the last convolution gives the logits. It differs from the paper in
its input, normalised colours instead of normalised local contrast, and in the decoder's convolutions, which have no
bias before batch normalisation.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from timm.models import VGG
from torch import Tensor, nn

from segline.config.fields import Pretrained
from segline.models.blocks import ConvBNReLU, pad_to_stride
from segline.models.encoders import backbone

DECODER = ((512, 512, 512, 512), (512, 512, 512, 256), (256, 256, 256, 128), (128, 128, 64), (64, 64))
"""The channels into, between and out of the convolutions of every decoder stage, from deep to shallow."""
STRIDE = 32


class SegNet(nn.Module):
    """SegNet, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(self, classes: int, *, pretrained: Pretrained = False) -> None:
        super().__init__()
        vgg: VGG = backbone("vgg16_bn", pretrained=pretrained)
        self.encoder = nn.ModuleList(split_at_poolings(vgg.features))
        self.decoder = nn.ModuleList(
            nn.Sequential(*map(ConvBNReLU, channels[:-1], channels[1:])) for channels in DECODER
        )
        self.head = nn.Conv2d(DECODER[-1][-1], classes, kernel_size=3, padding=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, features: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        indices = []
        for encode in self.encoder:
            features, index = max_pool(encode(features))
            indices.append(index)
        for decode in self.decoder:
            features = decode(max_unpool(features, indices.pop()))
        return self.head(features)


def split_at_poolings(layers: nn.Sequential) -> list[nn.Sequential]:
    """Return the stages of a VGG without its poolings."""
    ends = [index for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [nn.Sequential(*layers[start:end]) for start, end in zip(starts, ends, strict=True)]


def max_pool(
    features: Float[Tensor, "b c h w"],
) -> tuple[Float[Tensor, "b c h//2 w//2"], UInt8[Tensor, "b c h//2 w//2"]]:
    """Return the maxima of 2x2 windows and their indices in the window, 0 to 3 in reading order, first of equals."""
    maxima, index = F.max_pool2d(features, kernel_size=2, return_indices=True)
    width = features.shape[-1]
    index_in_window = 2 * (index // width % 2) + index % width % 2
    return maxima, index_in_window.to(torch.uint8)


def max_unpool(maxima: Float[Tensor, "b c h w"], index: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
    """Put every value at its index in a 2x2 window of zeros.

    PyTorch's own unpooling is not deterministic on CUDA and cannot be exported to ONNX.
    """
    indices = torch.arange(4, dtype=torch.uint8, device=index.device)[:, None, None]
    windows = torch.where(index[:, :, None] == indices, maxima[:, :, None], 0)
    return F.pixel_shuffle(windows.flatten(1, 2), 2)
