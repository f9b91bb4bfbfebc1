"""Evaluate as a Kubeflow component."""

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
    """Metrics, pictures and curves of every candidate.

    Args:
        evaluate: Section of the parameters, as JSON text.
        dataset_hash: SHA-256 of what label wrote; not read, but in the cache's key.
        candidates_hash: SHA-256 of what train wrote; not read, but in the cache's key.
        dataset: What label wrote.
        candidates: What train wrote.
        out: Leaderboard, counts, pictures, curves.
        out_hash: SHA-256 of what is in out; in the cache keys of the stages that follow.
        metrics: Validation mIoU of each candidate.
    """
    return command(
        TRAIN,
        "evaluate",
        params={"evaluate": evaluate},
        dataset=dataset.path,
        candidates=candidates.path,
        out=out.path,
    )
