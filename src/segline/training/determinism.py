"""The same seed, the same bits: what PyTorch has to be told for that."""

import os

import torch


def set_deterministic(seed: int) -> None:
    """Seed this process, and let it choose deterministic algorithms alone."""
    # A product of matrices is deterministic on a GPU only in workspaces of a set size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # What is written before it is read need not be filled first, which costs a pass over every tensor. PyTorch makes
    # this property when it is imported, so that mypy does not know of it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(seed)
