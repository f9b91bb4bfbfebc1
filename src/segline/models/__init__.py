"""The architectures by name, in ``MODELS``. A new one takes a file here and a line in the table.

A model is built as ``MODELS[name](classes, **options)`` and maps normalised images (b, 3, h, w) of any height and
width to logits (b, classes, h, w). Its keyword-only parameters are its options in ``params.yaml``.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from segline.models.deeplab_v1 import DeepLabV1
from segline.models.deeplab_v2 import DeepLabV2
from segline.models.deeplab_v3 import DeepLabV3
from segline.models.deeplab_v3plus import DeepLabV3Plus
from segline.models.downup import DownUp
from segline.models.drn_a_18 import DrnA18
from segline.models.fcn import FCN8s, FCN16s, FCN32s
from segline.models.pixel_mlp import PixelMLP
from segline.models.segnet import SegNet
from segline.models.smp import Smp
from segline.models.spp import Spp
from segline.models.spp_unet import SppUNet
from segline.models.unet import UNet
from segline.models.unet_resnet34 import UNetResNet34
from segline.models.unet_resnet50 import UNetResNet50
from segline.models.unet_valid import UNetValid

MODELS: dict[str, Callable[..., nn.Module]] = {
    "deeplab_v1": DeepLabV1,
    "deeplab_v2": DeepLabV2,
    "deeplab_v3": DeepLabV3,
    "deeplab_v3plus": DeepLabV3Plus,
    "downup": DownUp,
    "drn_a_18": DrnA18,
    "fcn16s": FCN16s,
    "fcn32s": FCN32s,
    "fcn8s": FCN8s,
    "pixel_mlp": PixelMLP,
    "segnet": SegNet,
    "smp/deeplabv3": partial(Smp, "deeplabv3"),
    "smp/deeplabv3plus": partial(Smp, "deeplabv3plus"),
    "smp/dpt": partial(Smp, "dpt"),
    "smp/fpn": partial(Smp, "fpn"),
    "smp/linknet": partial(Smp, "linknet"),
    "smp/manet": partial(Smp, "manet"),
    "smp/pan": partial(Smp, "pan"),
    "smp/pspnet": partial(Smp, "pspnet"),
    "smp/segformer": partial(Smp, "segformer"),
    "smp/unet": partial(Smp, "unet"),
    "smp/unetplusplus": partial(Smp, "unetplusplus"),
    "smp/upernet": partial(Smp, "upernet"),
    "spp": Spp,
    "spp_unet": SppUNet,
    "unet": UNet,
    "unet_resnet34": UNetResNet34,
    "unet_resnet50": UNetResNet50,
    "unet_valid": UNetValid,
}
