"""Gradients of depthwise convolutions on a CPU, rearranged to those for which oneDNN has fast kernels.

oneDNN computes a depthwise convolution as such only forward. For the gradient of the kernel it does so up to three
columns, and for that of the features, in bf16, only without a stride; both only without an atrous rate. Otherwise it
takes the convolution for one with groups of 16 channels, and is up to a hundred times slower: half of a training step
of an EfficientNet. In bf16 its gradient of an atrous kernel is also wrong, where the features have 32 columns or more.

The results are those of the plain formulas up to rounding, and the forward pass is left as it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

COLUMNS = 3
"""The most columns of a depthwise kernel whose gradient oneDNN computes in a kernel for depthwise convolutions."""
MIN_GRID = 4
"""The least side of the images into which an atrous rate divides the features, in px."""
CHANNELS_LAST = torch.channels_last
Pair = tuple[int, int]


class FastDepthwiseGradients(TorchFunctionMode):
    """A context in which the depthwise convolutions of a forward pass on a CPU get the rearranged gradients."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch, or this module's in its place."""
        if func is torch.conv2d and args:
            return _convolve(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _convolve(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve as :func:`torch.conv2d` does, whose arguments these are."""
    if (
        isinstance(padding, str)
        or features.device.type != "cpu"
        or features.ndim != 4
        or not groups == features.shape[1] == weight.shape[0] > 1
    ):
        return torch.conv2d(features, weight, bias, stride, padding, dilation, groups)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        features, weight, bias = features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    convolved: Tensor = _Depthwise.apply(features, weight, bias, _pair(stride), _pair(padding), _pair(dilation))
    return convolved


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of features (b, c, h, w) with kernels (c, 1, kh, kw)."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, kernel: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.geometry = stride, padding, dilation
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(features, kernel, bias, stride, padding, dilation, len(kernel))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, kernel = ctx.saved_tensors
        of_features, of_kernel, of_bias = ctx.needs_input_grad[:3]
        return (
            _features_gradient(features, kernel, gradient, *ctx.geometry) if of_features else None,
            _kernel_gradient(features, kernel, gradient, *ctx.geometry) if of_kernel else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            *(None, None, None),
        )


def _features_gradient(
    features: Float[Tensor, "b c h w"],
    kernel: Float[Tensor, "c 1 kh kw"],
    gradient: Float[Tensor, "b c oh ow"],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Float[Tensor, "b c h w"]:
    """Return the gradient of the features; that of a strided convolution is that of a dense one, with zeros between."""
    if rate := _grid_rate(features, gradient, stride, padding, dilation):
        features, gradient, size = _split(features, rate), _split(gradient, rate), features.shape[-2:]
        dense = kernel.repeat_interleave(rate**2, dim=0)
        padding = padding[0] // rate, padding[1] // rate
        return _merge(_backward(features, dense, gradient, (1, 1), padding, (1, 1), 0), rate, size)
    if stride != (1, 1) and gradient.dtype == torch.bfloat16:
        rows, columns = (
            side + 2 * pad - rate * (length - 1)
            for side, pad, rate, length in zip(features.shape[-2:], padding, dilation, kernel.shape[-2:], strict=True)
        )
        spread = torch.zeros_like(gradient[:, :, :1, :1].expand(-1, -1, rows, columns), memory_format=CHANNELS_LAST)
        spread[:, :, :: stride[0], :: stride[1]] = gradient
        gradient, stride = spread, (1, 1)
    return _backward(features, kernel, gradient, stride, padding, dilation, 0)


def _kernel_gradient(
    features: Float[Tensor, "b c h w"],
    kernel: Float[Tensor, "c 1 kh kw"],
    gradient: Float[Tensor, "b c oh ow"],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Float[Tensor, "c 1 kh kw"]:
    """Return the gradient of the kernels, computed for a few of their columns at a time."""
    if rate := _grid_rate(features, gradient, stride, padding, dilation):
        summands = _kernel_gradient(
            _split(features, rate),
            kernel.repeat_interleave(rate**2, dim=0),
            _split(gradient, rate),
            (1, 1),
            (padding[0] // rate, padding[1] // rate),
            (1, 1),
        )
        return summands.view(-1, rate**2, *kernel.shape[1:]).sum(1, dtype=torch.float32).to(kernel.dtype)
    if dilation != (1, 1) and gradient.dtype == torch.bfloat16:
        single = _backward(features.float(), kernel.float(), gradient.float(), stride, padding, dilation, 1)
        return single.to(kernel.dtype)
    columns = kernel.shape[-1]
    if columns <= COLUMNS or dilation != (1, 1):
        return _backward(features, kernel, gradient, stride, padding, dilation, 1)
    padded = F.pad(features, (padding[1], padding[1]))
    span = (gradient.shape[-1] - 1) * stride[1]
    parts = []
    for first in range(0, columns, COLUMNS):
        part = kernel[..., first : first + COLUMNS]
        seen = padded[..., first : first + span + part.shape[-1]]
        parts.append(_backward(seen, part, gradient, stride, (padding[0], 0), dilation, 1))
    return torch.cat(parts, dim=-1)


def _grid_rate(features: Tensor, gradient: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> int:
    """Return the atrous rate if every rate-th position forms an image of its own, in bf16; otherwise 0."""
    if gradient.dtype != torch.bfloat16:
        return 0
    rate = dilation[0]
    fits = features.shape == gradient.shape and stride == (1, 1) and dilation == (rate, rate) and rate > 1
    is_large = min(features.shape[-2:]) >= MIN_GRID * rate
    return rate if fits and is_large and padding[0] % rate == padding[1] % rate == 0 else 0


def _split(features: Float[Tensor, "b c h w"], rate: int) -> Tensor:
    """Make a channel of every rate-th position: (b, c * rate**2, h / rate, w / rate), rounded up."""
    height, width = features.shape[-2:]
    return F.pixel_unshuffle(F.pad(features, (0, -width % rate, 0, -height % rate)), rate)


def _merge(features: Tensor, rate: int, size: Sequence[int]) -> Tensor:
    """Undo :func:`_split`."""
    return F.pixel_shuffle(features, rate)[..., : size[0], : size[1]]


def _backward(
    features: Tensor, kernel: Tensor, gradient: Tensor, stride: Pair, padding: Pair, dilation: Pair, wanted: int
) -> Tensor:
    """Return PyTorch's gradient of the features (0) or of the kernel (1)."""
    mask = [wanted == 0, wanted == 1, False]
    results = torch.ops.aten.convolution_backward(
        gradient, features, kernel, None, stride, padding, dilation, False, (0, 0), len(kernel), mask
    )
    result: Tensor = results[wanted]
    return result


def _pair(value: int | Sequence[int]) -> Pair:
    rows, columns = (value, value) if isinstance(value, int) else value if len(value) == 2 else (value[0], value[0])
    return rows, columns
