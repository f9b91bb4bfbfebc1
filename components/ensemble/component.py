"""Ensemble as a Kubeflow component."""

from kfp import dsl

from components.command import TRAIN, command


@dsl.container_component
def ensemble(
    evaluate: str,
    ensemble: str,
    labelled_hash: str,
    trained_hash: str,
    evaluated_hash: str,
    labelled: dsl.Input[dsl.Dataset],
    trained: dsl.Input[dsl.Model],
    evaluated: dsl.Input[dsl.Artifact],
    out: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Average the best candidates, chosen on validation.

    Args:
        evaluate: Section of the parameters, as JSON text: its batch size is used.
        ensemble: Section of the parameters, as JSON text.
        labelled_hash: SHA-256 of what label wrote; not read, but in the cache's key.
        trained_hash: SHA-256 of what train wrote; not read, but in the cache's key.
        evaluated_hash: SHA-256 of what evaluate wrote; not read, but in the cache's key.
        labelled: What label wrote.
        trained: What train wrote.
        evaluated: What evaluate wrote.
        out: The ensemble, and its counts on the test images.
        metrics: Its test scores.
    """
    return command(
        TRAIN,
        "ensemble",
        params={"evaluate": evaluate, "ensemble": ensemble},
        labelled=labelled.path,
        trained=trained.path,
        evaluated=evaluated.path,
        out=out.path,
    )
