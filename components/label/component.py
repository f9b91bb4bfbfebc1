"""Label as a Kubeflow component."""

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
    """Class ids, crops and splits as memory-mapped shards.

    Args:
        seed: Of every random choice.
        label: Section of the parameters, as JSON text.
        exclusions: CSV of images and boxes to leave out, ``s3://bucket/key``; empty for none.
        manifest: What ingest wrote.
        validation: What validate wrote.
        out: The shards and their description.
        out_hash: SHA-256 of what is in out; in the cache keys of the stages that follow.
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
