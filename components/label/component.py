"""Label as a Kubeflow component."""

from kfp import dsl

from components.command import DATA, command


@dsl.container_component
def label(
    seed: int,
    label: str,
    exclusions: str,
    data_hash: str,
    ingested: dsl.Input[dsl.Dataset],
    validated: dsl.Input[dsl.Dataset],
    out: dsl.Output[dsl.Dataset],
):
    """Class ids, crops and splits as memory-mapped shards.

    Args:
        seed: Of every random choice.
        label: Section of the parameters, as JSON text.
        exclusions: CSV of images and boxes to leave out, ``s3://bucket/key``; empty for none.
        data_hash: SHA-256 of the data; not read, but in the cache's key.
        ingested: What ingest wrote.
        validated: What validate wrote.
        out: The shards and their description.
    """
    return command(
        DATA,
        "label",
        params={"seed": seed, "label": label},
        ingested=ingested.path,
        validated=validated.path,
        exclusions=exclusions,
        out=out.path,
    )
