"""Train as a Kubeflow component: in its own container, or on a Ray cluster that it makes for the time it takes."""

from kfp import dsl

from components.command import TRAIN, command


@dsl.container_component
def train(
    name: str,
    seed: int,
    train: str,
    dataset_hash: str,
    dataset: dsl.Input[dsl.Dataset],
    out: dsl.Output[dsl.Model],
    out_hash: dsl.OutputPath(str),
):
    """Train every architecture x loss with Ray Tune.

    With ``SEGLINE_RAYJOB`` in its environment, the path of a RayJob's template, it trains on GPU nodes.

    Args:
        name: Of the experiment and of the registered model.
        seed: Of every random choice.
        train: Section of the parameters, as JSON text.
        dataset_hash: SHA-256 of what label wrote; not read, but in the cache's key.
        dataset: What label wrote.
        out: A bundle for each candidate.
        out_hash: SHA-256 of what is in out; in the cache keys of the stages that follow.
    """
    return command(
        TRAIN,
        "train",
        params={"name": name, "seed": seed, "train": train},
        dataset=dataset.path,
        out=out.path,
    )
