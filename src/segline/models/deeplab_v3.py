"""DeepLab v3 (Seeds S1, section 7.4, and S2; Chen et al. 2017, "Rethinking Atrous Convolution").

It is the paper's final model: a ResNet-101 of output stride 16 or 8 with multi-grid (1, 2, 4) in its last stage, ASPP
with image features, a 1x1 classifier, and bilinear upsampling of the logits. The dropout follows the authors' code;
the paper does not mention one. Without multi-grid the encoder is a plainly dilated ResNet-101.
"""

from typing import Annotated, Literal

from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import AlignCorners, Pretrained, Range
from segline.models.aspp import ASPP, WIDTH, AtrousConvBNReLU, apply_multi_grid
from segline.models.blocks import pad_to_stride, upsample
from segline.models.encoders import backbone_features


class DeepLabV3(nn.Module):
    """DeepLab v3, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(
        self,
        classes: int,
        *,
        output_stride: Annotated[Literal[8, 16], "stride of the encoder's features; at 8 all atrous rates double"] = 16,
        multi_grid: Annotated[bool, "multiply the rates of the encoder's last stage by 1, 2, 4"] = True,
        dropout: Annotated[float, Range(0, 0.9), "share of the pooled features that is dropped in training"] = 0.1,
        align_corners: AlignCorners = True,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        self.encoder, channels = backbone_features("resnet101", pretrained=pretrained, output_stride=output_stride)
        if multi_grid:
            apply_multi_grid(self.encoder.get_submodule("layer4"), rate=32 // output_stride)
        self.aspp = ASPP(channels[-1], unit=AtrousConvBNReLU, output_stride=output_stride, dropout=dropout)
        self.head = nn.Conv2d(WIDTH, classes, kernel_size=1)
        self.stride, self.align_corners = output_stride, align_corners

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, self.stride, align_corners=self.align_corners)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        features = self.encoder(images)[-1]
        logits = self.head(self.aspp(features))
        return upsample(logits, self.stride, align_corners=self.align_corners)
