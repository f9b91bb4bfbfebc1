"""Edges as a Kubeflow component."""

from kfp import dsl

from components.command import TRAIN, command


@dsl.container_component
def edges(
    seed: int,
    edges: str,
    train: str,
    data_hash: str,
    labelled: dsl.Input[dsl.Dataset],
    out: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Train the edge network that the loss semeda needs, if a loss of the grid does.

    Args:
        seed: Of every random choice.
        edges: Section of the parameters, as JSON text.
        train: Section of the parameters, as JSON text: its losses say whether the network is needed.
        data_hash: SHA-256 of the data; not read, but in the cache's key.
        labelled: What label wrote.
        out: The network, if one is needed.
        metrics: Its accuracy on held-out label maps.
    """
    return command(
        TRAIN, "edges", params={"seed": seed, "edges": edges, "train": train}, labelled=labelled.path, out=out.path
    )
