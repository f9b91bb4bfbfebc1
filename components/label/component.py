"""The stage label as a Kubeflow component."""

from kfp import dsl

from components.command import DATA, command


@dsl.container_component
def label(
    seed: int,
    label: str,
    exclusions: str,
    manifest: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    out: dsl.Output[dsl.Dataset],
    out_hash: dsl.OutputPath(str),
):
    """Convert labels to class ids, cut crops, and write the splits as memory-mapped shards.

    Args:
        seed: The seed of every random choice.
        label: The section `label` of the parameters, as JSON text.
        exclusions: The CSV of images and boxes to leave out, `s3://bucket/key`; empty for none.
        manifest: The manifest that ingest wrote.
        validation: The validation that validate wrote.
        out: The shards and their description.
        out_hash: The SHA-256 of out, which is a part of the cache keys of the stages that read it.
    """
    return command(
        DATA,
        "label",
        params={"seed": seed, "label": label},
        manifest=manifest.path,
        validation=validation.path,
        exclusions=exclusions,
        out=out.path,
    )
