"""The settings of PyTorch by which the same seed gives the same bits."""

import os

import torch


def set_deterministic(seed: int) -> None:
    """Seed this process, and allow only deterministic algorithms."""
    # A product of matrices is deterministic on a GPU only in workspaces of a set size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # What is written before it is read need not be filled first, which costs a pass over every tensor. PyTorch makes
    # this property when it is imported, so that mypy does not know of it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(seed)
