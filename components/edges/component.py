"""Edges as a Kubeflow component."""

from kfp import dsl

from components.command import TRAIN, command


@dsl.container_component
def edges(
    seed: int,
    edges: str,
    train: str,
    dataset_hash: str,
    dataset: dsl.Input[dsl.Dataset],
    out: dsl.Output[dsl.Model],
    out_hash: dsl.OutputPath(str),
    metrics: dsl.Output[dsl.Metrics],
):
    """Train the edge network that the loss semeda needs, if a loss of the grid does.

    Args:
        seed: Of every random choice.
        edges: Section of the parameters, as JSON text.
        train: Section of the parameters, as JSON text: its losses say whether the network is needed.
        dataset_hash: SHA-256 of what label wrote; not read, but in the cache's key.
        dataset: What label wrote.
        out: The network, if one is needed.
        out_hash: SHA-256 of what is in out; in the cache keys of the stages that follow.
        metrics: Its accuracy on held-out label maps.
    """
    return command(
        TRAIN,
        "edges",
        params={"seed": seed, "edges": edges, "train": train},
        dataset=dataset.path,
        out=out.path,
    )
