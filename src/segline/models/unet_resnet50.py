"""U-Net on a ResNet-50 whose first stages are frozen (Seed S0, section 4.4.2 and figure 3).

The stem and the first three residual stages keep their initial weights and batch statistics; the fourth stage and the
decoder are trained. ``modified`` trains all, as "ResNet50-UNet Modified" of S0's table 4 does. The seed describes the
decoder only as "the inverse of the downsampling path"; here each step doubles the size bilinearly, adds (or
concatenates) the encoder's features of that size and applies two 3x3 convolutions with batch normalisation and ReLU,
which output as many channels as the encoder's next finer features have. For sums, a 1x1 convolution first reduces the
deepest features to the channels of the next finer ones. The head is a 1x1 convolution.
"""

from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import Pretrained
from segline.models.blocks import DoubleConv, concat_skip, pad_to_stride
from segline.models.encoders import backbone_features

FROZEN = ("conv1", "bn1", "layer1", "layer2", "layer3")
DECODER = (512, 256, 64, 64, 32)
STRIDE = 32


class UNetResNet50(nn.Module):
    """ResNet-50 U-Net, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w).

    Frozen stages are useful only with weights that were trained before: set ``pretrained`` or ``modified``.
    """

    def __init__(
        self,
        classes: int,
        *,
        skips: Annotated[Literal["sum", "concat"], "how the encoder's features enter the decoder"] = "sum",
        modified: Annotated[bool, "train the whole encoder instead of its fourth stage alone"] = False,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        self.encoder, (*shallow, deepest) = backbone_features("resnet50", pretrained=pretrained)
        summed = skips == "sum"
        self.bridge = nn.Conv2d(deepest, shallow[-1], kernel_size=1) if summed else nn.Identity()
        deep_channels = [shallow[-1] if summed else deepest, *DECODER[:-1]]
        skip_channels = [0, 0, 0, 0, 0] if summed else [*reversed(shallow), 0]
        self.decoder = nn.ModuleList(
            DoubleConv(deep + skip, out) for deep, skip, out in zip(deep_channels, skip_channels, DECODER, strict=True)
        )
        self.head = nn.Conv2d(DECODER[-1], classes, kernel_size=1)
        self.merge = Tensor.add if summed else concat_skip
        self.frozen = () if modified else FROZEN
        for name in self.frozen:
            self.encoder.get_submodule(name).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "UNetResNet50":
        """Set training or evaluation mode; frozen stages stay in evaluation mode and keep their statistics."""
        super().train(mode)
        for name in self.frozen:
            self.encoder.get_submodule(name).eval()
        return self

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        *skips, features = self.encoder(images)
        features = self.bridge(features)
        for decode in self.decoder:
            features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = decode(self.merge(features, skips.pop()) if skips else features)
        return self.head(features)
