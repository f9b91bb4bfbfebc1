"""Promote as a Kubeflow component."""

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
    """Make the winner champion if it is better on the same test images.

    Args:
        name: Of the experiment and of the registered model.
        seed: Of every random choice.
        promotion: Whether a better model becomes champion; in place of the section's `enabled`.
        evaluate: Section of the parameters, as JSON text: its batch size is used.
        promote: Section of the parameters, as JSON text.
        dataset: What label wrote.
        evaluation: What evaluate wrote.
        ensemble: What ensemble wrote.
        out: The decision and the report.
        metrics: The challenger's and the champion's mIoU on the test images.
        report: The report, one page.
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
