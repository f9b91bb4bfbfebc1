"""Cases for every loss, an edge network with random weights among them."""

from pathlib import Path

import pytest
import torch
from loss_cases import case_of, random_target
from safetensors.torch import save_file

from segline.losses.edge_network import EdgeNetwork
from segline.losses.semeda import EDGE_NETWORK
from segline.losses.task import Task


@pytest.fixture(scope="session")
def edge_network(tmp_path_factory):
    """A function from a number of classes to the folder of an edge network."""
    folder = tmp_path_factory.mktemp("edges")

    def write(classes) -> Path:
        path = folder / str(classes) / EDGE_NETWORK
        if not path.exists():
            path.parent.mkdir()
            with torch.random.fork_rng():
                torch.manual_seed(classes)
                save_file(EdgeNetwork(classes).state_dict(), path)
        return path.parent

    return write


@pytest.fixture(scope="session")
def make_task(edge_network):
    def make(classes, background=None):
        names = tuple(f"class {k}" for k in range(classes))
        return Task(names=names, background=background, prepared=edge_network(classes))

    return make


@pytest.fixture(scope="session")
def make_case(make_task):
    """Random logits and class ids, with the task and the maps that belong to them."""

    def make(background=0, seed=0, classes=4, **options):
        target = random_target(classes=classes, seed=seed, **options)
        return case_of(target, make_task(classes, background), seed=seed + 100)

    return make
