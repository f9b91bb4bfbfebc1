"""SPP-UNet: its two halves are the pyramid pooling and the U-Net of smp."""

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import nn

from segline.models.spp_unet import SppUNet


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def as_in_segline(name):
    for theirs, ours in (("decoder.blocks.", "decoder."), (".conv1.", ".0."), (".conv2.", ".1.")):
        name = name if name.startswith("encoder.") else name.replace(theirs, ours)
    return name.replace("segmentation_head.0", "head")


def pooled_and_fused(values, features):
    """The bottom written out with PyTorch's own pooling."""

    def unit(features, name, padding):
        features = F.conv2d(features, values[f"{name}.0.weight"], padding=padding)
        norm = [values[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(features, *norm))

    size = features.shape[-2:]
    grids = [unit(F.adaptive_avg_pool2d(features, cells), f"pool.units.{cells}", 0) for cells in (1, 2, 3, 6)]
    spread = [nn.Upsample(size, mode="bilinear")(grid) for grid in grids]
    return unit(torch.cat([features, *spread], dim=1), "fuse", 1)


def test_it_is_a_unet_of_smp_over_pyramid_pooling():
    torch.manual_seed(3)
    theirs = smp.Unet(
        "resnet101",
        encoder_weights=None,
        classes=4,
        decoder_channels=(512, 256, 64, 64, 32),
        decoder_interpolation="bilinear",
    )
    theirs.decoder.blocks[0].conv1[0] = nn.Conv2d(512 + 1024, 512, kernel_size=3, padding=1, bias=False)
    theirs.segmentation_head[0] = nn.Conv2d(32, 4, kernel_size=1)
    ours, images = SppUNet(4), noise(1, 3, 64, 96)
    with torch.no_grad():
        ours.train()(noise(2, 3, 64, 64))
    values = ours.eval().state_dict()
    theirs.load_state_dict({name: values[as_in_segline(name)] for name in theirs.state_dict()})
    with torch.inference_mode():
        *skips, deepest = theirs.eval().encoder(images)
        decoded = theirs.decoder([*skips, pooled_and_fused(values, deepest)])
        expected = theirs.segmentation_head(decoded)
        assert deepest.shape == (1, 2048, 2, 3)
        torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5)
