"""Whether there is something new to train on, which a schedule with ``--when-changed`` asks after validate.

A line depends on its settings (parameters, seed, exclusions, code and packages) and on its data, the pairs that passed.
It has ended when promote has judged its model, which MLflow knows. So the first run trains, as does one with changed
parameters, another seed or new code, and one after a run that failed or was stopped. After a rollback there is nothing
new, as the same line would end in the same model.
"""

from collections.abc import Mapping
from pathlib import Path

from segline.artifacts.code import code_hash
from segline.artifacts.manifest import read_manifest
from segline.artifacts.table import ARTIFACTS
from segline.artifacts.validation import RECORD, VALIDATION
from segline.config.params import Params
from segline.config.serialization import as_json
from segline.files.atomic import write_text
from segline.files.hashing import file_hash
from segline.progress import log
from segline.tracking import lines, provenance
from segline.tracking.client import Experiment

STAGES = ("label", "train", "evaluate", "ensemble", "promote")
"""The stages that run only if there is something new."""


def run(
    params: Params, *, validation_dir: Path, tracking_uri: str, when: str, exclusions: Path | None, out: Path
) -> None:
    """Write ``true`` into a file if there is something new, else ``false``, and record the answer in MLflow.

    Args:
        params: The parameters.
        validation_dir: The folder that validate wrote.
        tracking_uri: The URI of MLflow.
        when: ``data`` or ``drift``, see :data:`segline.platforms.commands.WHEN`.
        exclusions: The list of images and regions to leave out.
        out: The file to write.

    Raises:
        StageError: A file that validate wrote is missing or damaged.
        TrackingError: MLflow cannot be reached.
    """
    VALIDATION.check(validation_dir)
    data, settings = read_manifest(validation_dir).content_hash, settings_hash(params, exclusions)
    experiment = Experiment(tracking_uri, params.name)
    with experiment.explained_errors("looking for something new"):
        judged = lines.judged(experiment, settings)
        trains, reason = decide(judged, data, validation_dir, when)
        lines.start_line(experiment, settings, data, trains=trains, reason=reason)
    write_text(out, "true" if trains else "false")
    log(f"changed: {reason}")


def settings_hash(params: Params, exclusions: Path | None) -> str:
    """Return the hash of all that a line depends on beside its data."""
    sections = [as_json(getattr(params, stage)) for stage in STAGES]
    code = code_hash({module for stage in STAGES for module in ARTIFACTS[stage].code})
    excluded = file_hash(exclusions) if exclusions else ""
    return provenance.key(*sections, params.seed, excluded, code, provenance.environment_hash())


def decide(judged: Mapping[str, int], data: str, validation_dir: Path, when: str) -> tuple[bool, str]:
    """Return whether to train, and the reason.

    Args:
        judged: The hashes of the data that were judged with these settings, each with the version.
        data: The hash of the data.
        validation_dir: The folder that validate wrote.
        when: ``data`` or ``drift``.
    """
    if not judged:
        return True, "nothing was judged yet with these parameters and this code"
    if data in judged:
        return False, f"nothing is new: v{judged[data]} was trained on the same data and judged"
    return (True, "the data are new") if when == "data" else _drift(validation_dir)


def _drift(validation_dir: Path) -> tuple[bool, str]:
    """Return whether validate found drift, or could not tell, and the reason."""
    record = VALIDATION.read_json(validation_dir / RECORD)
    champion, note = record["drift"]["champion"], record["drift"]["note"]
    if note:
        return True, f"the data are new, and whether they have drifted is not known: {note}"
    (rule,) = [rule for rule in record["rules"] if rule["rule"] == "drift"]
    if rule["success"]:
        return False, f"nothing is new: the data have not drifted from those of champion v{champion}"
    return True, f"the data have drifted: {'; '.join(rule['reasons'])}"
