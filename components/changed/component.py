"""The question whether there is something new to train on, as a Kubeflow component."""

from kfp import dsl

from components.command import TRAIN, sections_text


# Longer than 40 lines: Kubeflow reads the inputs and their descriptions from one signature and its docstring.
@dsl.container_component
def changed(
    when: str,
    name: str,
    seed: int,
    exclusions: str,
    promotion: bool,
    label: str,
    train: str,
    evaluate: str,
    ensemble: str,
    promote: str,
    validation: dsl.Input[dsl.Dataset],
    changed: dsl.OutputPath(str),
):
    """Tell whether there is something new to train on; only a pipeline with `--when-changed` has this task.

    Args:
        when: `data` for any other data than were judged before, `drift` only for data that have drifted.
        name: The name of the MLflow experiment and of the registered model.
        seed: The seed of every random choice.
        exclusions: The CSV of images and boxes to leave out, `s3://bucket/key`; empty for none.
        promotion: Whether a better model becomes the champion; it replaces `enabled` of the section.
        label: The section `label` of the parameters, as JSON text.
        train: The section `train` of the parameters, as JSON text.
        evaluate: The section `evaluate` of the parameters, as JSON text.
        ensemble: The section `ensemble` of the parameters, as JSON text.
        promote: The section `promote` of the parameters, as JSON text.
        validation: The validation that validate wrote.
        changed: `true` if there is something new, else `false`.
    """
    params = {"name": name, "seed": seed, "label": label, "train": train, "evaluate": evaluate}
    return dsl.ContainerSpec(
        image=TRAIN,
        command=["segline", "changed"],
        args=[
            "--params",
            sections_text(params | {"ensemble": ensemble, "promote": promote}),
            "--set",
            f"promote.enabled={promotion}",
            "--when",
            when,
            "--exclusions",
            exclusions,
            "--validation",
            validation.path,
            "--out",
            changed,
        ],
    )
