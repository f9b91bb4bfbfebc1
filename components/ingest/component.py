"""The stage ingest as a Kubeflow component."""

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
    """Pair images with label maps, and write their manifest.

    Args:
        seed: The seed of every random choice.
        ingest: The section `ingest` of the parameters, as JSON text.
        source: The source that replaces the one in the section; empty to keep that one.
        revision: The revision that replaces the one in the section; empty to keep that one.
        out: The manifest, and copies of the files that cannot be read in place.
    """
    return command(
        DATA,
        "ingest",
        params={"seed": seed, "ingest": ingest},
        overrides={"ingest.source": source, "ingest.dvc.revision": revision},
        out=out.path,
    )
