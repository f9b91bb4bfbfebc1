"""``MODELS``: the architectures by name. A new one is a file here and a line in the table.

A model is built as ``MODELS[name](classes, **options)`` and maps images (b, 3, h, w), normalised floats, to
logits (b, classes, h, w) for any height and width. Its keyword-only parameters are its options in
``params.yaml``.
"""

from torch import nn

from segline.models.unet import UNet
from segline.models.unet_resnet34 import UNetResNet34

MODELS: dict[str, type[nn.Module]] = {
    "unet": UNet,
    "unet_resnet34": UNetResNet34,
}
