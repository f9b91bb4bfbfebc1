"""The stage train as a Kubeflow component, which trains in its own container or on a Ray cluster that it makes."""

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
    """Train every architecture with every loss, with Ray Tune.

    If the environment variable `SEGLINE_RAYJOB` names the template of a RayJob, the stage trains on a Ray cluster.

    Args:
        name: The name of the MLflow experiment and of the registered model.
        seed: The seed of every random choice.
        train: The section `train` of the parameters, as JSON text.
        dataset_hash: The SHA-256 of the dataset; the stage ignores it, but it is a part of the cache's key.
        dataset: The dataset that label wrote.
        out: One bundle for each candidate.
        out_hash: The SHA-256 of out, which is a part of the cache keys of the stages that read it.
    """
    return command(
        TRAIN,
        "train",
        params={"name": name, "seed": seed, "train": train},
        dataset=dataset.path,
        out=out.path,
    )
