"""The stage label as a Kubeflow component."""

from kfp import dsl

from components.command import DATA, command


@dsl.container_component
def label(
    seed: int,
    label: str,
    train: str,
    evaluate: str,
    exclusions: str,
    manifest: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    out: dsl.Output[dsl.Dataset],
    out_hash: dsl.OutputPath(str),
):
    """Convert labels to class ids, and write shards of training crops and packs of whole frames to judge models on.

    Args:
        seed: The seed of every random choice.
        label: The section `label` of the parameters, as JSON text.
        train: The section `train`, as JSON text, which says whether models are validated on crops.
        evaluate: The section `evaluate`, as JSON text, which says whether models are judged on crops.
        exclusions: The CSV of images and boxes to leave out, `s3://bucket/key`; empty for none.
        manifest: The manifest that ingest wrote.
        validation: The validation that validate wrote.
        out: The shards, the packs and their description.
        out_hash: The SHA-256 of out, which is a part of the cache keys of the stages that read it.
    """
    return command(
        DATA,
        "label",
        params={"seed": seed, "label": label, "train": train, "evaluate": evaluate},
        manifest=manifest.path,
        validation=validation.path,
        exclusions=exclusions,
        out=out.path,
    )
