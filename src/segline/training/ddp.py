"""The processes that train one model together: each has its rows of every batch. One process is the usual case.

They talk of tensors where those lie, by NCCL on GPUs, and of numbers on the CPU by gloo, which waits for no GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Network = TypeVar("Network", bound=nn.Module)


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; the first one writes."""
    return dist.get_rank() if count() > 1 else 0


def rows(images: int) -> tuple[slice, float]:
    """The rows of a batch that are this process's, and the weight of their mean loss.

    Gradients are averaged over the processes, so that the weight makes them those of the mean over the whole batch. A
    process without rows takes the first one with no weight: all have to take part.
    """
    own = len(range(rank(), images, count()))
    return (slice(rank(), None, count()), own * count() / images) if own else (slice(1), 0.0)


def wrap_ddp(model: nn.Module, device: torch.device) -> nn.Module:
    """The network to call in training, whose gradients are averaged over all processes."""
    if count() == 1:
        return model
    devices = [device] if device.type == "cuda" else None
    # Some encoders have layers that their decoder does not use.
    return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)


def convert_sync_batchnorm(model: Network, device: torch.device) -> Network:
    """Batch normalisation over the whole batch: PyTorch can on GPUs; on CPUs each process normalises its own rows."""
    if count() == 1 or device.type != "cuda":
        return model
    converted: Network = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted


@contextmanager
def no_sync(network: nn.Module, *, apart: bool) -> Iterator[None]:
    """While ``apart``, each process keeps its gradients: only the last pass of a step averages them."""
    inner = getattr(network, "_orig_mod", network)
    if apart and isinstance(inner, DistributedDataParallel):
        with inner.no_sync():
            yield
    else:
        yield


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if count() > 1:
        dist.all_reduce(values)
    return values


def all_reduce_max(values: list[float]) -> list[float]:
    """The greatest of each value in all processes: of flags, whether it is up in some process."""
    if count() == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return cast(list[float], shared.tolist())


def are_same(values: list[float]) -> bool:
    """Whether all processes have these values; all of them get the same answer."""
    signed = [*values, *(-value for value in values)]
    return not any(all_reduce_max([float(all_reduce_max(signed) != signed)]))


def broadcast_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers, such as the statistics of batch normalisation."""
    if count() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def wait() -> None:
    """Until all processes are here."""
    all_reduce_max([0.0])
