"""The processes that train one model together: each has some rows of every batch. One process is the usual case.

They exchange tensors on their device, by NCCL on GPUs, and numbers on the CPU by gloo, which waits for no GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Network = TypeVar("Network", bound=nn.Module)


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0; rank 0 writes."""
    return dist.get_rank() if world_size() > 1 else 0


def rows(images: int) -> tuple[slice, bool]:
    """Return the rows of a batch that belong to this process, and whether they count.

    A process without rows takes the first one, which does not count, because all must take part.
    """
    return (slice(rank(), None, world_size()), True) if rank() < images else (slice(1), False)


def wrap_ddp(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the network to call in training, whose gradients are averaged over all processes."""
    if world_size() == 1:
        return model
    devices = [device] if device.type == "cuda" else None
    # Some encoders have layers that their decoder does not use.
    return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)


def convert_sync_batchnorm(model: Network, device: torch.device) -> Network:
    """Normalize over the whole batch, which PyTorch can on GPUs; on CPUs each process normalizes its own rows."""
    if world_size() == 1 or device.type != "cuda":
        return model
    converted: Network = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted


@contextmanager
def no_sync(network: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Let each process keep its gradients while ``enabled``: only the last pass of a step averages them."""
    inner = getattr(network, "_orig_mod", network)
    if enabled and isinstance(inner, DistributedDataParallel):
        with inner.no_sync():
            yield
    else:
        yield


def all_reduce_sum(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def all_reduce_max(values: list[float]) -> list[float]:
    """Return the maximum of each value over all processes; of a flag, whether any process has set it."""
    if world_size() == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return cast(list[float], shared.tolist())


def are_same(values: list[float]) -> bool:
    """Return whether all processes have these values; all of them get the same answer."""
    signed = [*values, *(-value for value in values)]
    return not any(all_reduce_max([float(all_reduce_max(signed) != signed)]))


def broadcast_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers, such as the statistics of batch normalisation."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def barrier() -> None:
    """Wait until all processes are here."""
    all_reduce_max([0.0])
