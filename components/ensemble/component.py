"""Ensemble as a Kubeflow component."""

from kfp import dsl

from components.command import TRAIN, command


@dsl.container_component
def ensemble(
    evaluate: str,
    ensemble: str,
    dataset_hash: str,
    candidates_hash: str,
    evaluation_hash: str,
    dataset: dsl.Input[dsl.Dataset],
    candidates: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    out: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Average the best candidates, chosen on validation.

    Args:
        evaluate: Section of the parameters, as JSON text: its batch size is used.
        ensemble: Section of the parameters, as JSON text.
        dataset_hash: SHA-256 of what label wrote; not read, but in the cache's key.
        candidates_hash: SHA-256 of what train wrote; not read, but in the cache's key.
        evaluation_hash: SHA-256 of what evaluate wrote; not read, but in the cache's key.
        dataset: What label wrote.
        candidates: What train wrote.
        evaluation: What evaluate wrote.
        out: The ensemble, and its counts on the test images.
        metrics: Its test scores.
    """
    return command(
        TRAIN,
        "ensemble",
        params={"evaluate": evaluate, "ensemble": ensemble},
        dataset=dataset.path,
        candidates=candidates.path,
        evaluation=evaluation.path,
        out=out.path,
    )
