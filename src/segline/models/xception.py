"""The aligned Xception-71 of DeepLab v3+ as its authors' code has it (Seed S4, section 4; Chen et al. 2018, 3.3).

The layers and the weights are timm's. Two things follow the authors' code (research/deeplab/core in tensorflow/models),
where timm's own features differ:

* The network is built at stride 32 and dilated afterwards. timm replaces the shortcut of the fifth block by an identity
  at output stride 8, and drops its trained 531,440 parameters; here it is a convolution at every stride.
* The low-level features are the output of the second separable convolution of the third block, before the ReLU.
"""

from jaxtyping import Float
from timm.models.xception_aligned import XceptionAligned, XceptionModule
from torch import Tensor, nn

from segline.models.encoders import backbone, normalized

CHANNELS = [128, 256, 2048]
LOW_LEVEL_BLOCK = 2
"""The index of the block whose features of stride 4 are the low-level ones."""
LOW_LEVEL_LAYERS = 4
"""The number of layers of this block up to the second convolution."""


def xception_features(name: str, *, pretrained: bool | str, output_stride: int) -> tuple[nn.Module, list[int]]:
    """Return the encoder for images in ImageNet's normalisation, and the channels of its features.

    The arguments and errors are those of :func:`segline.models.encoders.backbone_features`.
    """
    return normalized(Xception(name, pretrained=pretrained, output_stride=output_stride), name), CHANNELS


class Xception(nn.Module):
    """The encoder, which maps images (b, 3, h, w) in its own normalisation to features from fine to coarse.

    Args:
        name: The name of a timm model whose blocks are those of Xception-71.
        pretrained: The source of the weights; see :data:`segline.config.fields.Pretrained`.
        output_stride: The stride of the deep features: 8, 16 or 32.

    Raises:
        TrainingError: The weights are not available, or do not fit.
    """

    def __init__(self, name: str, *, pretrained: bool | str, output_stride: int) -> None:
        super().__init__()
        whole: XceptionAligned = backbone(name, pretrained=pretrained)
        self.stem, self.blocks = whole.stem, whole.blocks
        dilate(self.blocks, output_stride)
        # timm's ReLU in this place would overwrite the low-level features.
        self.blocks[LOW_LEVEL_BLOCK].get_submodule("stack").act3 = nn.ReLU()

    def forward(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b 128 t u"], Float[Tensor, "b 256 t u"], Float[Tensor, "b 2048 m n"]]:
        """Return the features of the first block and the low-level ones, both of stride 4, and the deep ones."""
        first, second, block, *rest = self.blocks
        entry = first(self.stem(images))
        features = second(entry)
        low = block.stack[:LOW_LEVEL_LAYERS](features)
        features = block.stack[LOW_LEVEL_LAYERS:](low) + block.shortcut(features)
        for block in rest:
            features = block(features)
        return entry, low, features


def dilate(blocks: nn.Sequential, output_stride: int) -> None:
    """Lower the stride of Xception's blocks in place: their last strides become rates of the convolutions behind."""
    stride, rate = 2, 1
    for block in blocks:
        assert isinstance(block, XceptionModule)
        for layer in block.stack.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (rate, rate)
        depthwise = block.get_submodule("stack.conv3.conv_dw")
        if depthwise.stride == (1, 1):
            continue
        if stride < output_stride:
            stride *= 2
            continue
        rate *= 2
        for layer in (depthwise, block.get_submodule("shortcut.conv")):
            layer.stride = (1, 1)
