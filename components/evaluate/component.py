"""Evaluate as a Kubeflow component."""

from kfp import dsl

from components.command import TRAIN, command


@dsl.container_component
def evaluate(
    evaluate: str,
    labelled_hash: str,
    trained_hash: str,
    labelled: dsl.Input[dsl.Dataset],
    trained: dsl.Input[dsl.Model],
    out: dsl.Output[dsl.Artifact],
    out_hash: dsl.OutputPath(str),
    metrics: dsl.Output[dsl.Metrics],
):
    """Metrics, pictures and curves of every candidate.

    Args:
        evaluate: Section of the parameters, as JSON text.
        labelled_hash: SHA-256 of what label wrote; not read, but in the cache's key.
        trained_hash: SHA-256 of what train wrote; not read, but in the cache's key.
        labelled: What label wrote.
        trained: What train wrote.
        out: Leaderboard, counts, pictures, curves.
        out_hash: SHA-256 of what is in out; in the cache keys of the stages that follow.
        metrics: Validation mIoU of each candidate.
    """
    return command(
        TRAIN, "evaluate", params={"evaluate": evaluate}, labelled=labelled.path, trained=trained.path, out=out.path
    )
