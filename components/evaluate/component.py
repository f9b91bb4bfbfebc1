"""Evaluate as a Kubeflow component."""

from kfp import dsl

from components.command import TRAIN, command


@dsl.container_component
def evaluate(
    evaluate: str,
    data_hash: str,
    labelled: dsl.Input[dsl.Dataset],
    trained: dsl.Input[dsl.Model],
    out: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Metrics, pictures and curves of every candidate.

    Args:
        evaluate: Section of the parameters, as JSON text.
        data_hash: SHA-256 of the data; not read, but in the cache's key.
        labelled: What label wrote.
        trained: What train wrote.
        out: Leaderboard, counts, pictures, curves.
        metrics: Validation mIoU of each candidate.
    """
    return command(
        TRAIN, "evaluate", params={"evaluate": evaluate}, labelled=labelled.path, trained=trained.path, out=out.path
    )
