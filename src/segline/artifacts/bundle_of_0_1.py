"""The options that a bundle of version 0.1 stands for: its ``model.json`` holds only those that the user wrote.

The table holds the defaults of 0.1.0, and what 0.1.0 did where a later version has an option. It never changes, except
that an option which is added to an architecture gets the value that keeps the results of 0.1.
"""

from typing import Any

_PRETRAINED = {"pretrained": False}
_ONE_STEP = {"align_corners": False, **_PRETRAINED}
_SKIPS = {"scale_skips": False, **_PRETRAINED}
_SMP = {"encoder": "resnet34", **_PRETRAINED}
OPTIONS: dict[str, dict[str, Any]] = {
    "deeplab_v1": _PRETRAINED,
    "deeplab_v2": _ONE_STEP,
    "deeplab_v3": {"output_stride": 16, "multi_grid": True, "dropout": 0.1, **_ONE_STEP},
    "deeplab_v3plus": {
        "encoder": "resnet101",
        "output_stride": 16,
        "xception": "timm",
        "dropout": 0.1,
        **_ONE_STEP,
    },
    "downup": {"width": 212},
    "drn_a_18": _ONE_STEP,
    "fcn16s": _SKIPS,
    "fcn32s": _PRETRAINED,
    "fcn8s": _SKIPS,
    "segnet": _PRETRAINED,
    "smp/deeplabv3": _SMP,
    "smp/deeplabv3plus": _SMP,
    "smp/dpt": _SMP | {"encoder": "tu-vit_base_patch16_224"},
    "smp/fpn": _SMP,
    "smp/linknet": _SMP,
    "smp/manet": _SMP,
    "smp/pan": _SMP,
    "smp/pspnet": _SMP,
    "smp/segformer": _SMP,
    "smp/unet": _SMP,
    "smp/unetplusplus": _SMP,
    "smp/upernet": _SMP,
    "spp": {"output_stride": 8, "dropout": 0.1, **_ONE_STEP},
    "spp_unet": {"dropout": 0.1, **_PRETRAINED},
    "unet": {"encoder": "", "upsampling": "transposed", "width": 64, "depth": 4, **_PRETRAINED},
    "unet_resnet34": _PRETRAINED,
    "unet_resnet50": {"skips": "sum", "modified": False, **_PRETRAINED},
    "unet_valid": {"width": 64, "depth": 4, "tile": 388},
}


def resolve(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return all options of an architecture; an empty encoder stood for the default."""
    return OPTIONS[model] | {key: value for key, value in options.items() if (key, value) != ("encoder", "")}
