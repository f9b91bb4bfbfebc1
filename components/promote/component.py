"""The stage promote as a Kubeflow component."""

from kfp import dsl

from components.command import TRAIN, command


@dsl.container_component
def promote(
    name: str,
    seed: int,
    promotion: bool,
    evaluate: str,
    promote: str,
    dataset: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Artifact],
    ensemble: dsl.Input[dsl.Model],
    out: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
):
    """Compare the winner with the champion on the same test images, and make it the champion if it is better.

    Args:
        name: The name of the MLflow experiment and of the registered model.
        seed: The seed of every random choice.
        promotion: Whether a better model becomes the champion; it replaces `enabled` of the section.
        evaluate: The section `evaluate` of the parameters, as JSON text; the batch size is read from it.
        promote: The section `promote` of the parameters, as JSON text.
        dataset: The dataset that label wrote.
        evaluation: The evaluation that evaluate wrote.
        ensemble: The ensemble that ensemble wrote.
        out: The decision and the report.
        metrics: The mIoU of the challenger and of the champion on the test images.
        report: The report, as one HTML page.
    """
    return command(
        TRAIN,
        "promote",
        params={"name": name, "seed": seed, "evaluate": evaluate, "promote": promote},
        overrides={"promote.enabled": promotion},
        dataset=dataset.path,
        evaluation=evaluation.path,
        ensemble=ensemble.path,
        out=out.path,
    )
