"""The stage validate as a Kubeflow component."""

from kfp import dsl

from components.command import TRAIN, command


@dsl.container_component
def validate(
    name: str,
    validate: str,
    manifest: dsl.Input[dsl.Dataset],
    out: dsl.Output[dsl.Dataset],
    docs: dsl.Output[dsl.HTML],
):
    """Check every pair, quarantine the bad ones, and write Data Docs.

    Args:
        name: The name of the MLflow experiment and of the registered model.
        validate: The section `validate` of the parameters, as JSON text.
        manifest: The manifest that ingest wrote.
        out: The valid pairs, their statistics, and the quarantine.
        docs: The Data Docs, as one HTML page.
    """
    return command(TRAIN, "validate", params={"name": name, "validate": validate}, manifest=manifest.path, out=out.path)
