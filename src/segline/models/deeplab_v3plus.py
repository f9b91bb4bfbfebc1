"""DeepLab v3+ (Seeds S1, section 7.4, and S4, section 4; Chen et al. 2018, sections 3.1 and 3.2).

It has the encoder and ASPP of DeepLab v3 with atrous separable convolutions, and a decoder: the features of stride 4,
reduced to 48 channels, are concatenated with the upsampled ASPP; two separable 3x3 convolutions of 256 channels, a 1x1
classifier and an upsampling by 4 follow. Batch normalisation and ReLU follow both halves of a separable convolution,
as in the paper's Xception and everywhere in its code. A ResNet-101 has multi-grid (1, 2, 4) in its last stage, as in
v3; the aligned Xception-71 of Seed S4 has none (section 4.3) and gets images in the normalisation of its ImageNet
weights. ``xception: official`` is the encoder of the authors' code (:mod:`segline.models.xception`). ``timm`` is that
of version 0.1, which loses a trained shortcut at output stride 8 and takes low-level features behind the ReLU.
"""

from typing import Annotated, Literal

from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import AlignCorners, Pretrained, Range
from segline.models.aspp import ASPP, WIDTH, SeparableConvBNReLU, apply_multi_grid
from segline.models.blocks import Conv1x1BNReLU, concat_skip, pad_to_stride, upsample
from segline.models.encoders import backbone_features
from segline.models.xception import xception_features

LOW_LEVEL_CHANNELS = 48


class DeepLabV3Plus(nn.Module):
    """DeepLab v3+, which maps images (b, 3, h, w) of any size to logits (b, classes, h, w)."""

    def __init__(
        self,
        classes: int,
        *,
        encoder: Annotated[
            Literal[
                "resnet101",
                "xception71",
                "tf_efficientnet_lite0",
                "tf_efficientnet_lite1",
                "tf_efficientnet_lite2",
                "mobilenetv2_100",
            ],
            "the network that computes the features",
        ] = "resnet101",
        output_stride: Annotated[Literal[8, 16], "stride of the encoder's features; at 8 all atrous rates double"] = 16,
        xception: Annotated[
            Literal["official", "timm"], "xception71 as in the authors' code, or as version 0.1 took it from timm"
        ] = "official",
        dropout: Annotated[float, Range(0, 0.9), "share of the pooled features that is dropped in training"] = 0.1,
        align_corners: AlignCorners = True,
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        features = xception_features if (encoder, xception) == ("xception71", "official") else backbone_features
        self.encoder, channels = features(encoder, pretrained=pretrained, output_stride=output_stride)
        if encoder == "resnet101":
            apply_multi_grid(self.encoder.get_submodule("layer4"), rate=32 // output_stride)
        self.aspp = ASPP(channels[-1], unit=SeparableConvBNReLU, output_stride=output_stride, dropout=dropout)
        self.reduce = Conv1x1BNReLU(channels[1], LOW_LEVEL_CHANNELS)
        self.refine = nn.Sequential(
            SeparableConvBNReLU(WIDTH + LOW_LEVEL_CHANNELS, WIDTH), SeparableConvBNReLU(WIDTH, WIDTH)
        )
        self.head = nn.Conv2d(WIDTH, classes, kernel_size=1)
        self.stride, self.align_corners = output_stride, align_corners

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self._segment, images, self.stride, align_corners=self.align_corners)

    def _segment(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        _, low, *_, deep = self.encoder(images)
        context = upsample(self.aspp(deep), self.stride // 4, align_corners=self.align_corners)
        refined = self.refine(concat_skip(context, self.reduce(low)))
        return upsample(self.head(refined), 4, align_corners=self.align_corners)
