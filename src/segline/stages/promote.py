"""Promote: register the winner, and make it champion if it is better on the same test images.

The decision is kept with the registered version before the alias moves, so that a run cut off in between
decides the same when it is repeated.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from segline.artifacts.bundle import bundle_hash, read_bundle
from segline.artifacts.code import code_hash
from segline.artifacts.dataset import DatasetInfo, read_dataset_info
from segline.artifacts.ensemble import ENSEMBLE, MODEL, TEST_COUNTS, read_metrics
from segline.artifacts.evaluation import read_counts
from segline.artifacts.promotion import DECISION as DECISION_FILE
from segline.artifacts.promotion import PROMOTION, REPORT, Decision
from segline.artifacts.validation import STATISTICS
from segline.config.params import Params
from segline.config.serialization import as_json
from segline.data.shards import open_split
from segline.errors import StageError, TrackingError
from segline.files.atomic import write_json
from segline.inference.bundle import load_models
from segline.inference.predict import count_split
from segline.metrics.bootstrap import compare
from segline.metrics.confusion import Counts, scores
from segline.progress import log
from segline.reporting.report import sentence, write_report
from segline.tracking import provenance, registry, runs, tags
from segline.tracking.client import Experiment
from segline.tracking.registry import CHALLENGER, CHAMPION, Version
from segline.tracking.tags import DECISION, ROLLED_BACK

IS_CHAMPION = "it is champion already"


def run(
    params: Params, *, dataset_dir: Path, evaluation_dir: Path, ensemble_dir: Path, tracking_uri: str, out: Path
) -> None:
    """Write ``decision.json`` and ``report.html``; move the aliases in the registry.

    Raises:
        TrackingError: the registry cannot be reached, or its champion has other classes.
    """
    description = read_dataset_info(dataset_dir)
    tested = read_metrics(ensemble_dir)
    if tested["dataset"] != description.content_hash:
        raise StageError(f"{ensemble_dir} was tested on other data than {dataset_dir}; run `segline ensemble` again")
    challenger = ensemble_dir / MODEL
    experiment = Experiment(tracking_uri, params.name)
    with PROMOTION.writing(out) as work:
        version = _register(experiment, challenger, description, dataset_dir, tested["test"])
        decision = _settled(experiment, version, description, params) or _decide(
            experiment, version, description, dataset_dir, ensemble_dir, params
        )
        if not params.promote.enabled:
            decision = _withheld(decision, "promotion is off (promote.enabled)")
        registry.set_tags(experiment, version, {DECISION: asdict(decision)})
        # Not kept with the version, so that it counts again once the tag is gone.
        if ROLLED_BACK in version.tags:
            decision = _withheld(
                decision, f"v{version.number} was rolled back; delete its tag {ROLLED_BACK} to allow it"
            )
        _move_aliases(experiment, version, decision)
        record = asdict(decision) | {"model": params.name, "tracking_uri": tracking_uri}
        write_json(work / DECISION_FILE, record)
        write_report(work / REPORT, evaluation_dir=evaluation_dir, ensemble_dir=ensemble_dir, decision=record)
    log(f"promote: {sentence(record)}; see `segline summary`")


def _register(
    experiment: Experiment, bundle: Path, description: DatasetInfo, dataset_dir: Path, test: dict[str, Any]
) -> Version:
    """The registered version of this bundle, with a run of its own.

    The run holds its test scores and the statistics of its training pairs, which validate compares new data with.
    """
    key = provenance.key("bundle", bundle_hash(bundle), description.content_hash)
    facts = {tags.DATASET_HASH: description.content_hash, **provenance.code_version()}
    if description.source_revision:
        facts[tags.SOURCE_REVISION] = description.source_revision
    members = " + ".join(member.candidate for member in read_bundle(bundle).members)
    record = runs.start_run(experiment, key, f"ensemble-{key[:8]}", {"members": members}, facts)
    with runs.closing(experiment, record):
        runs.log_metrics(
            experiment, record, {f"test_{name}": test[name] for name in ("miou", "mean_dice", "pixel_accuracy")}
        )
        if (dataset_dir / STATISTICS).is_file():
            runs.log_artifact(experiment, record, dataset_dir / STATISTICS)
        return registry.register_model(experiment, record, key, bundle, facts)


def _settled(experiment: Experiment, version: Version, description: DatasetInfo, params: Params) -> Decision | None:
    """The decision that an earlier run made of this version, if nothing has changed since."""
    if DECISION not in version.tags:
        return None
    decision = Decision(**json.loads(version.tags[DECISION]))
    champion = registry.get_by_alias(experiment, CHAMPION)
    number = champion.number if champion else None
    same_rival = number == decision.against or (decision.promoted and number == version.number)
    same_question = (decision.dataset, decision.settings) == (description.content_hash, _settings(params))
    return decision if same_rival and same_question else None


def _settings(params: Params) -> str:
    """What a decision depends on beside the data and the models."""
    return provenance.key(as_json(params.promote), params.seed, code_hash(PROMOTION.code))


def _decide(
    experiment: Experiment,
    version: Version,
    description: DatasetInfo,
    dataset_dir: Path,
    ensemble_dir: Path,
    params: Params,
) -> Decision:
    mine = read_counts(ensemble_dir / TEST_COUNTS, ENSEMBLE)
    miou = float(scores(mine.sum(0), description.names)["miou"])
    champion = registry.get_by_alias(experiment, CHAMPION)
    if champion is None or champion.number == version.number:
        reason = "it is the first" if champion is None else IS_CHAMPION
        return Decision(
            promoted=True,
            reason=reason,
            version=version.number,
            test_miou=miou,
            dataset=description.content_hash,
            settings=_settings(params),
        )
    theirs = _count_champion(experiment, champion, description, dataset_dir, params)
    settings = params.promote
    found = compare(mine, theirs, resamples=settings.resamples, confidence=settings.confidence, seed=params.seed)
    seen = _count_seen(experiment, champion, dataset_dir)
    reason = (
        f"mIoU {found.challenger:.4f} against {found.champion:.4f} on the same {len(mine)} test images, and the "
        f"{settings.confidence:.0%} lower bound of the gain is {found.lower_bound:+.4f}"
        + (f"; the champion was trained on {seen} of these images, so it has an advantage" if seen else "")
    )
    return Decision(
        promoted=found.better,
        reason=reason,
        version=version.number,
        against=champion.number,
        test_miou=found.challenger,
        champion_test_miou=found.champion,
        lower_bound=found.lower_bound,
        dataset=description.content_hash,
        settings=_settings(params),
        seen_by_champion=seen,
    )


def _withheld(decision: Decision, why: str) -> Decision:
    """A decision that moves no champion; who is champion already stays it."""
    if not decision.promoted or decision.reason == IS_CHAMPION:
        return decision
    return replace(decision, promoted=False, reason=f"{decision.reason}, but {why}")


def _count_seen(experiment: Experiment, champion: Version, dataset_dir: Path) -> int:
    """Today's test crops of images that the champion was trained on, as far as that was kept with it."""
    with TemporaryDirectory() as folder:
        file = registry.download_artifact(experiment, champion, STATISTICS, Path(folder))
        trained = set() if file is None else set(pd.read_parquet(file, columns=["key"])["key"])
    return int(open_split(dataset_dir, "test").index["key"].isin(trained).sum())


def _count_champion(
    experiment: Experiment, champion: Version, description: DatasetInfo, dataset_dir: Path, params: Params
) -> Counts:
    """The champion's counts on today's test images."""
    folder = registry.download_bundle(experiment, champion)
    bundle = read_bundle(folder)
    if [entry.name for entry in bundle.classes] != description.names:
        raise TrackingError(
            f"champion {params.name} v{champion.number} has the classes {', '.join(e.name for e in bundle.classes)}, "
            f"the data have {', '.join(description.names)}; give `name` in params.yaml another value"
        )
    return count_split(
        load_models(folder, bundle),
        open_split(dataset_dir, "test"),
        classes=len(description.classes),
        batch_size=params.evaluate.batch_size,
    )


def _move_aliases(experiment: Experiment, version: Version, decision: Decision) -> None:
    """A version is challenger until it wins; the champion it replaced stays named in a tag."""
    if not decision.promoted:
        registry.set_alias(experiment, CHALLENGER, version)
        return
    if decision.against is not None:
        registry.set_tags(experiment, version, {tags.PREVIOUS_CHAMPION: str(decision.against)})
    registry.set_alias(experiment, CHAMPION, version)
    registry.delete_alias(experiment, CHALLENGER)
