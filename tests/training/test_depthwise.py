"""Gradients of depthwise convolutions, against sums over shifted features in double precision."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shard_files import write_split
from torch.profiler import ProfilerActivity, profile

from segline.config.sections import Train
from segline.data.shards import Crops
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.models import MODELS
from segline.training.depthwise import FastDepthwiseGradients
from segline.training.engine import try_step
from segline.training.run import Run

CASES = [
    # kernel, stride, padding, dilation, height, width
    ((3, 3), 1, 1, 1, 9, 12),
    ((5, 5), 1, 2, 1, 9, 12),
    ((5, 5), 2, 0, 1, 11, 14),
    ((3, 3), 2, 1, 1, 10, 13),
    ((7, 7), 1, 3, 1, 8, 9),
    ((1, 7), (2, 1), (0, 3), 1, 9, 8),
    ((7, 4), (1, 3), (3, 1), (1, 2), 12, 15),
    ((5, 5), 1, 4, 2, 11, 14),
    ((3, 3), 1, 3, 3, 14, 13),
    ((3, 3), 1, 6, 6, 9, 9),
    ((3, 3), 2, 2, 2, 13, 12),
    # oneDNN's own gradient of these two is wrong in bf16
    ((3, 3), 1, 2, 2, 9, 40),
    ((3, 3), 1, (1, 2), (1, 2), 9, 40),
]


def convolve_by_sums(features, kernel, bias, stride, padding, dilation):
    """Depthwise convolution as it is defined: each place of the kernel weighs the features, shifted."""
    (rows, columns), (down, right), (high, wide) = (
        value if isinstance(value, tuple) else (value, value) for value in (stride, padding, dilation)
    )
    padded = F.pad(features, (right, right, down, down))
    height = (padded.shape[2] - high * (kernel.shape[2] - 1) - 1) // rows + 1
    width = (padded.shape[3] - wide * (kernel.shape[3] - 1) - 1) // columns + 1
    total = bias.view(1, -1, 1, 1)
    for row in range(kernel.shape[2]):
        for column in range(kernel.shape[3]):
            seen = padded[:, :, row * high :: rows, column * wide :: columns][:, :, :height, :width]
            total = total + seen * kernel[:, 0, row, column].view(1, -1, 1, 1)
    return total


def tensors(kernel, height, width, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 24, height, width), (24, 1, *kernel), (24,)]
    drawn = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    drawn[0] = drawn[0].contiguous(memory_format=torch.channels_last)
    return [tensor.requires_grad_() for tensor in drawn]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1.2e-2)])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "height", "width"), CASES)
def test_the_gradients_are_those_of_the_definition(kernel, stride, padding, dilation, height, width, dtype, tolerance):
    inputs = tensors(kernel, height, width, dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    plain = F.conv2d(*inputs, **geometry, groups=24)
    with FastDepthwiseGradients():
        actual = F.conv2d(*inputs, **geometry, groups=24)
    assert torch.equal(actual, plain)
    gradient = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = torch.autograd.grad(convolve_by_sums(*exact, stride, padding, dilation), exact, gradient.double())
    for got, want in zip(torch.autograd.grad(actual, inputs, gradient), expected, strict=True):
        assert got.dtype == dtype
        assert (got - want).abs().max() <= tolerance * want.abs().max()


def test_other_convolutions_and_frozen_kernels_are_left_as_they_are():
    features, kernel, _ = tensors((5, 5), 9, 9, torch.float32)
    dense = torch.randn(8, 24, 3, 3, requires_grad=True)
    with FastDepthwiseGradients():
        assert F.conv2d(features, dense).grad_fn.name() == "ConvolutionBackward0"
        assert F.conv2d(features[0], kernel, groups=24).grad_fn.name() != "_DepthwiseBackward"
        same = F.conv2d(features, kernel, padding="same", groups=24)
        assert F.conv2d(features.detach(), kernel.detach(), groups=24).grad_fn is None
        (of_features,) = torch.autograd.grad(
            F.conv2d(features, kernel.detach(), padding=2, groups=24).sum(), features, retain_graph=True
        )
    assert torch.equal(of_features, torch.autograd.grad(same.sum(), features)[0])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_step_asks_only_for_gradients_that_have_a_fast_kernel(tmp_path, precision):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    write_split(tmp_path, images, generator.integers(0, 3, (2, 64, 64), dtype=np.uint8), size=2)
    run = Run(
        model=MODELS["smp/unet"](3, encoder="tu-tf_efficientnet_lite0"),
        loss=WeightedSum([(1.0, LOSSES["cross_entropy"](Task(names=("a", "b", "c"))))]),
        train=Crops(tmp_path),
        val=Crops(tmp_path),
        classes=3,
        settings=Train(epochs=1, batch_size=2, precision=precision),
        seed=0,
        device=torch.device("cpu"),
    )
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        try_step(run)
    calls = [call for call in recorded.events() if call.name == "aten::convolution_backward"]
    depthwise = [call for call in calls if call.input_shapes[2][1] == 1]
    of_kernel = [call.concrete_inputs for call in depthwise if call.concrete_inputs[10][1]]
    assert len(of_kernel) > len(depthwise) / 3
    for call in depthwise:
        _, of_kernel, _ = call.concrete_inputs[10]
        assert call.input_shapes[2][3] <= 3 or not of_kernel
        assert call.concrete_inputs[4] == [1, 1] or of_kernel or precision == "fp32"
