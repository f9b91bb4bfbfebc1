"""Validate as a Kubeflow component."""

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
    """Check every pair, quarantine the bad, write Data Docs.

    Args:
        name: Of the experiment and of the registered model.
        validate: Section of the parameters, as JSON text.
        manifest: What ingest wrote.
        out: The valid pairs, their statistics, the quarantine.
        docs: The Data Docs, one page.
    """
    return command(TRAIN, "validate", params={"name": name, "validate": validate}, manifest=manifest.path, out=out.path)
