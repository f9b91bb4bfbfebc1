"""The stage ensemble as a Kubeflow component."""

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
    """Average the probabilities of the best candidates, which are chosen on the validation images.

    Args:
        evaluate: The section `evaluate` of the parameters, as JSON text; the batch size is read from it.
        ensemble: The section `ensemble` of the parameters, as JSON text.
        dataset_hash: The SHA-256 of the dataset; the stage ignores it, but it is a part of the cache's key.
        candidates_hash: The SHA-256 of the candidates; the stage ignores it, but it is a part of the cache's key.
        evaluation_hash: The SHA-256 of the evaluation; the stage ignores it, but it is a part of the cache's key.
        dataset: The dataset that label wrote.
        candidates: The candidates that train wrote.
        evaluation: The evaluation that evaluate wrote.
        out: The definition of the ensemble, and its counts on the test images.
        metrics: The scores of the ensemble on the test images.
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
