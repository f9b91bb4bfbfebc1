"""The names in each model's weight files: weights that were stored by an earlier version must still load."""

from hashlib import sha256

import pytest
import torch

from segline.models import MODELS

KEYS = {
    "deeplab_v1": "1d7fbc288d678ad9",
    "deeplab_v2": "f3bf66616df17809",
    "deeplab_v3": "d8a6295baff85f24",
    "deeplab_v3plus": "efe7241b1296311f",
    "downup": "9b5347f8354d6f5b",
    "drn_a_18": "d2a53aaad54600ea",
    "fcn16s": "f145f19a370d32b7",
    "fcn32s": "3b32136301413cb6",
    "fcn8s": "ad7fccce67bc1dc8",
    "pixel_mlp": "b77759bb226e2564",
    "segnet": "4602710148f44484",
    "smp/deeplabv3": "d9a12c3005c0c58c",
    "smp/deeplabv3plus": "196156ece65de031",
    "smp/dpt": "77eaec511b030c35",
    "smp/fpn": "2705a09ba4cb1f09",
    "smp/linknet": "e53eaec7de960d9e",
    "smp/manet": "3f793184fa6fd7db",
    "smp/pan": "1cf889e9d7f7818f",
    "smp/pspnet": "5072286d7373fbed",
    "smp/segformer": "e68e7043f73a5eef",
    "smp/unet": "f1d8a6e36d9e7f6c",
    "smp/unetplusplus": "67be0ad56393da8f",
    "smp/upernet": "f6e68a18d4ae10e5",
    "spp": "5ecc8c6d85b3caaa",
    "spp_unet": "7e479ec4ab82e5bd",
    "unet": "6815e53978969139",
    "unet_resnet34": "2833ad1efe7afd5e",
    "unet_resnet50": "01d9b24642716e9e",
    "unet_valid": "1fef6bd374971790",
}
"""The start of the SHA-256 over the sorted keys of the state dict, one a line, as version 0.1 has them."""


def test_every_model_is_listed():
    assert set(KEYS) == set(MODELS)


@pytest.mark.parametrize("name", KEYS)
def test_the_keys_of_the_state_dict_stay(name):
    """On a device that computes shapes alone; a change needs a migration of stored weights."""
    with torch.device("meta"):
        keys = sorted(MODELS[name](5).state_dict())
    assert sha256("\n".join(keys).encode()).hexdigest()[:16] == KEYS[name]
