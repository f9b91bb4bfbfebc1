"""Ingest as a Kubeflow component."""

from kfp import dsl

from components.command import DATA, command


@dsl.container_component
def ingest(
    seed: int,
    ingest: str,
    source: str,
    revision: str,
    out: dsl.Output[dsl.Dataset],
):
    """Pair images with label maps and write their manifest.

    Args:
        seed: Of every random choice.
        ingest: Section of the parameters, as JSON text.
        source: In place of the section's; empty to keep it.
        revision: In place of the section's; empty to keep it.
        out: The manifest, and the files that cannot be read in place.
    """
    return command(
        DATA,
        "ingest",
        params={"seed": seed, "ingest": ingest},
        overrides={"ingest.source": source, "ingest.dvc.revision": revision},
        out=out.path,
    )
