"""U-Net on a ResNet-50 whose first stages are frozen (Seed S0, section 4.4.2 and figure 3).

The stem and the first three residual stages keep the weights and the batch statistics they start with; the
fourth stage and the decoder are trained. ``modified`` trains all, as "ResNet50-UNet Modified" of S0's table 4
does. The seed leaves open what the decoder looks like beyond "the inverse of the downsampling path"; here a
step doubles the size bilinearly, adds (or concatenates) the encoder's features of that size and applies two
convolution units, which leave as many channels as the next features have. For sums, a 1x1 convolution first
brings the deepest features to the channels of those above. A 1x1 head.
"""

from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import Pretrained
from segline.models.blocks import DoubleConv, join, pad_to_stride
from segline.models.encoders import backbone_features

FROZEN = ("conv1", "bn1", "layer1", "layer2", "layer3")
DECODER = (512, 256, 64, 64, 32)
STRIDE = 32


class UNetResNet50(nn.Module):
    """ResNet-50 U-Net: images (b, 3, h, w) to logits (b, classes, h, w), any size.

    Frozen stages are of use only with weights that were trained before: set ``pretrained``, or ``modified``.
    """

    def __init__(
        self,
        classes: int,
        *,
        skips: Annotated[Literal["sum", "concat"], "how the encoder's features enter the decoder"] = "sum",
        modified: Annotated[bool, "train the whole encoder, not its fourth stage alone"] = False,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        self.encoder, (*shallow, deepest) = backbone_features("resnet50", pretrained=pretrained)
        summed = skips == "sum"
        self.bridge = nn.Conv2d(deepest, shallow[-1], kernel_size=1) if summed else nn.Identity()
        below = [shallow[-1] if summed else deepest, *DECODER[:-1]]
        beside = [0, 0, 0, 0, 0] if summed else [*reversed(shallow), 0]
        self.decoder = nn.ModuleList(
            DoubleConv(deep + skip, out) for deep, skip, out in zip(below, beside, DECODER, strict=True)
        )
        self.head = nn.Conv2d(DECODER[-1], classes, kernel_size=1)
        self.merge = Tensor.add if summed else join
        self.frozen = () if modified else FROZEN
        for name in self.frozen:
            self.encoder.get_submodule(name).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "UNetResNet50":
        """Switch to training or evaluation; the frozen stages stay in evaluation, their statistics as they are."""
        super().train(mode)
        for name in self.frozen:
            self.encoder.get_submodule(name).eval()
        return self

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        return pad_to_stride(self._segment, images, STRIDE)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        *skips, features = self.encoder(images)
        features = self.bridge(features)
        for decode in self.decoder:
            features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = decode(self.merge(features, skips.pop()) if skips else features)
        return self.head(features)
