"""The stage evaluate as a Kubeflow component."""

from kfp import dsl

from components.command import TRAIN, command


@dsl.container_component
def evaluate(
    evaluate: str,
    dataset_hash: str,
    candidates_hash: str,
    dataset: dsl.Input[dsl.Dataset],
    candidates: dsl.Input[dsl.Model],
    out: dsl.Output[dsl.Artifact],
    out_hash: dsl.OutputPath(str),
    metrics: dsl.Output[dsl.Metrics],
):
    """Compute the metrics of every candidate, and draw its pictures and curves.

    Args:
        evaluate: The section `evaluate` of the parameters, as JSON text.
        dataset_hash: The SHA-256 of the dataset; the stage ignores it, but it is a part of the cache's key.
        candidates_hash: The SHA-256 of the candidates; the stage ignores it, but it is a part of the cache's key.
        dataset: The dataset that label wrote.
        candidates: The candidates that train wrote.
        out: The leaderboard, the counts, the pictures and the curves.
        out_hash: The SHA-256 of out, which is a part of the cache keys of the stages that read it.
        metrics: The mIoU of each candidate on the validation images.
    """
    return command(
        TRAIN,
        "evaluate",
        params={"evaluate": evaluate},
        dataset=dataset.path,
        candidates=candidates.path,
        out=out.path,
    )
