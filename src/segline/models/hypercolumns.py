"""Hypercolumns (Hariharan et al. 2015): the features of a frozen encoder at several strides, joined per position.

The features of each stride are resized bilinearly to one common stride and concatenated. The encoder keeps its weights
and statistics: it has no gradient, and stays in evaluation mode.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.errors import TrainingError
from segline.models.encoders import backbone_pyramid


class Hypercolumns(nn.Module):
    """The joined features of a frozen encoder of timm.

    Args:
        encoder: The name of a timm model.
        pretrained: The source of its weights; see :data:`segline.config.fields.Pretrained`.
        finest: The lowest stride whose features are taken.
        coarsest: The highest stride whose features are taken.
        stride: The stride of the joined features.

    Raises:
        TrainingError: There is no such encoder, it has no features of these strides, or its weights are not available.
    """

    def __init__(self, encoder: str, *, pretrained: bool | str, finest: int, coarsest: int, stride: int) -> None:
        super().__init__()
        self.encoder, pyramid = backbone_pyramid(encoder, pretrained=pretrained)
        self.taken = [finest <= own <= coarsest for _, own in pyramid]
        self.channels = sum(channels for channels, own in pyramid if finest <= own <= coarsest)
        if not self.channels:
            strides = ", ".join(str(own) for _, own in pyramid)
            raise TrainingError(
                f"pixel_mlp: {encoder} has features of the strides {strides}, got finest_stride {finest} and "
                f"coarsest_stride {coarsest}; take strides between which it has some"
            )
        self.coarsest, self.stride = max(pyramid[-1][1], stride), stride
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Hypercolumns":
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c t u"]:
        """Return the features of images whose sides are multiples of ``coarsest``, at ``stride``."""
        size = [side // self.stride for side in images.shape[-2:]]
        taken = [features for features, is_taken in zip(self.encoder(images), self.taken, strict=True) if is_taken]
        return torch.cat([F.interpolate(features, size=size, mode="bilinear") for features in taken], dim=1)

    def pad(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 t u"]:
        """Return images padded below and right to a multiple of the coarsest stride, at least two features a side."""
        below, right = (max(2 * self.coarsest, side + -side % self.coarsest) - side for side in images.shape[-2:])
        return F.pad(images, (0, right, 0, below))

    @torch.no_grad()
    def at(self, images: Float[Tensor, "1 3 h w"], pixels: Integer[Tensor, " p"]) -> Float[Tensor, "p c"]:
        """Return the features at some pixels of an image, interpolated as an upsampling to the image would.

        Args:
            images: One image of any size.
            pixels: The numbers of the pixels, row after row.
        """
        width, padded = images.shape[-1], self.pad(images)
        features = self(padded)
        row, column = (pixels // width + 0.5) / padded.shape[-2], (pixels % width + 0.5) / padded.shape[-1]
        places = 2 * torch.stack([column, row], dim=1) - 1
        sampled = F.grid_sample(features, places[None, None], padding_mode="border", align_corners=False)
        return sampled[0, :, 0].T
