"""Gradients of depthwise convolutions on a CPU, rearranged to those for which oneDNN has fast kernels.

oneDNN computes a depthwise convolution as such only forward. For the gradient of the kernel it does so up to three
columns, and for that of the features, in bf16, only without a stride; both only without an atrous rate. Otherwise it
takes the convolution for one with groups of 16 channels, and is up to a hundred times slower: half of a training step
of an EfficientNet. In bf16 its gradient of an atrous kernel is also wrong, where the features have 32 columns or more.

The results are those of the plain formulas up to rounding, and the forward pass is left as it is.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

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


class Geometry(NamedTuple):
    """The steps of a convolution in rows and columns, in px."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


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
    geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation))
    convolved: Tensor = _Depthwise.apply(features, weight, bias, geometry)
    return convolved


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of features (b, c, h, w) with kernels (c, 1, kh, kw)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.geometry = geometry
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(features, kernel, bias, *geometry, len(kernel))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, kernel = ctx.saved_tensors
        of_features, of_kernel, of_bias = ctx.needs_input_grad[:3]
        return (
            _features_gradient(features, kernel, gradient, ctx.geometry) if of_features else None,
            _kernel_gradient(features, kernel, gradient, ctx.geometry) if of_kernel else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
        )


def _features_gradient(
    features: Float[Tensor, "b c h w"],
    kernel: Float[Tensor, "c 1 kh kw"],
    gradient: Float[Tensor, "b c oh ow"],
    geometry: Geometry,
) -> Float[Tensor, "b c h w"]:
    """Return the gradient of the features; that of a strided convolution is that of a dense one, with zeros between."""
    if rate := _grid_rate(features, gradient, geometry):
        divided = _divided(features, kernel, gradient, geometry, rate)
        return _merge(_backward(*divided, "features"), rate, features.shape[-2:])
    stride, padding, dilation = geometry
    if stride != (1, 1) and gradient.dtype == torch.bfloat16:
        rows, columns = (
            side + 2 * pad - rate * (length - 1)
            for side, pad, rate, length in zip(features.shape[-2:], padding, dilation, kernel.shape[-2:], strict=True)
        )
        spread = torch.zeros_like(gradient[:, :, :1, :1].expand(-1, -1, rows, columns), memory_format=CHANNELS_LAST)
        spread[:, :, :: stride[0], :: stride[1]] = gradient
        gradient, geometry = spread, geometry._replace(stride=(1, 1))
    return _backward(features, kernel, gradient, geometry, "features")


def _kernel_gradient(
    features: Float[Tensor, "b c h w"],
    kernel: Float[Tensor, "c 1 kh kw"],
    gradient: Float[Tensor, "b c oh ow"],
    geometry: Geometry,
) -> Float[Tensor, "c 1 kh kw"]:
    """Return the gradient of the kernels, computed for a few of their columns at a time."""
    if rate := _grid_rate(features, gradient, geometry):
        summands = _kernel_gradient(*_divided(features, kernel, gradient, geometry, rate))
        return summands.view(-1, rate**2, *kernel.shape[1:]).sum(1, dtype=torch.float32).to(kernel.dtype)
    stride, padding, dilation = geometry
    if dilation != (1, 1) and gradient.dtype == torch.bfloat16:
        single = _backward(features.float(), kernel.float(), gradient.float(), geometry, "kernel")
        return single.to(kernel.dtype)
    columns = kernel.shape[-1]
    if columns <= COLUMNS or dilation != (1, 1):
        return _backward(features, kernel, gradient, geometry, "kernel")
    padded = F.pad(features, (padding[1], padding[1]))
    span = (gradient.shape[-1] - 1) * stride[1]
    parts = []
    for first in range(0, columns, COLUMNS):
        part = kernel[..., first : first + COLUMNS]
        seen = padded[..., first : first + span + part.shape[-1]]
        parts.append(_backward(seen, part, gradient, geometry._replace(padding=(padding[0], 0)), "kernel"))
    return torch.cat(parts, dim=-1)


def _grid_rate(features: Tensor, gradient: Tensor, geometry: Geometry) -> int:
    """Return the atrous rate if every rate-th position forms an image of its own, in bf16; otherwise 0."""
    if gradient.dtype != torch.bfloat16:
        return 0
    stride, padding, dilation = geometry
    rate = dilation[0]
    fits = features.shape == gradient.shape and stride == (1, 1) and dilation == (rate, rate) and rate > 1
    is_large = min(features.shape[-2:]) >= MIN_GRID * rate
    return rate if fits and is_large and padding[0] % rate == padding[1] % rate == 0 else 0


def _divided(
    features: Tensor, kernel: Tensor, gradient: Tensor, geometry: Geometry, rate: int
) -> tuple[Tensor, Tensor, Tensor, Geometry]:
    """Return an atrous convolution as the dense one of the images into which its rate divides the features."""
    rows, columns = geometry.padding
    dense = kernel.repeat_interleave(rate**2, dim=0)
    return _split(features, rate), dense, _split(gradient, rate), Geometry(padding=(rows // rate, columns // rate))


def _split(features: Float[Tensor, "b c h w"], rate: int) -> Tensor:
    """Make a channel of every rate-th position: (b, c * rate**2, h / rate, w / rate), rounded up."""
    height, width = features.shape[-2:]
    return F.pixel_unshuffle(F.pad(features, (0, -width % rate, 0, -height % rate)), rate)


def _merge(features: Tensor, rate: int, size: Sequence[int]) -> Tensor:
    """Undo :func:`_split`."""
    return F.pixel_shuffle(features, rate)[..., : size[0], : size[1]]


def _backward(
    features: Tensor, kernel: Tensor, gradient: Tensor, geometry: Geometry, of: Literal["features", "kernel"]
) -> Tensor:
    """Return PyTorch's gradient of the features or of the kernel."""
    of_features, of_kernel, _ = torch.ops.aten.convolution_backward(
        gradient,
        features,
        kernel,
        None,
        *geometry,
        False,
        (0, 0),
        len(kernel),
        [of == "features", of == "kernel", False],
    )
    result: Tensor = of_features if of == "features" else of_kernel
    return result


def _pair(value: int | Sequence[int]) -> Pair:
    rows, columns = (value, value) if isinstance(value, int) else value if len(value) == 2 else (value[0], value[0])
    return rows, columns
