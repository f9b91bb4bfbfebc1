"""Promote: register the winner, and make it champion if it is better on the same test images.

The decision is kept with the registered version before the alias moves, so that a run cut off in between
decides the same when it is repeated.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from segline.config.params import Params
from segline.config.serialization import as_json
from segline.data.shards import DatasetInfo, open_split, read_dataset_info
from segline.errors import StageError, TrackingError
from segline.files.atomic import source_hash, write_json, writing
from segline.inference.bundle import bundle_hash, load_models, read_bundle
from segline.inference.predict import count_split
from segline.metrics.bootstrap import compare
from segline.metrics.confusion import Counts, scores
from segline.progress import log
from segline.reporting.report import sentence, write_report
from segline.tracking import runs as tracking

CODE = ("segline.metrics", "segline.inference", "segline.stages.promote")
DECISION = "segline.decision"
IS_CHAMPION = "it is champion already"
ROLLED_BACK = "segline.rolled_back"
"""The tag of a version that somebody has taken back, with any value: it is not promoted again."""


@dataclass(frozen=True)
class Decision:
    """What was decided about a version, against which champion, and why.

    ``seen_by_champion`` counts the test images that the champion was trained on, which happens when the split is made
    anew: it has an advantage then.
    """

    promoted: bool
    reason: str
    version: int
    against: int | None
    test_miou: float
    champion_test_miou: float | None
    lower_bound: float | None
    dataset: str
    settings: str
    seen_by_champion: int = 0


def run(
    params: Params, *, dataset_dir: Path, evaluation_dir: Path, ensemble_dir: Path, tracking_uri: str, out: Path
) -> None:
    """Write ``decision.json`` and ``report.html``; move the aliases in the registry.

    Raises:
        TrackingError: the registry cannot be reached, or its champion has other classes.
    """
    description = read_dataset_info(dataset_dir)
    tested = _test_metrics(ensemble_dir)
    if tested["dataset"] != description.content_hash:
        raise StageError(f"{ensemble_dir} was tested on other data than {dataset_dir}; run `segline ensemble` again")
    challenger = ensemble_dir / "model"
    tracker = tracking.Tracker(tracking_uri, params.name)
    with writing(out) as work:
        version = _register(tracker, challenger, description, dataset_dir, tested["test"])
        decision = _settled(tracker, version, description, params) or _decide(
            tracker, version, description, dataset_dir, ensemble_dir, params
        )
        if not params.promote.enabled:
            decision = _withheld(decision, "promotion is off (promote.enabled)")
        tracker.tag(version, {DECISION: asdict(decision)})
        # Not kept with the version, so that it counts again once the tag is gone.
        if ROLLED_BACK in version.tags:
            decision = _withheld(
                decision, f"v{version.number} was rolled back; delete its tag {ROLLED_BACK} to allow it"
            )
        _move_aliases(tracker, version, decision)
        record = asdict(decision) | {"model": params.name, "tracking_uri": tracking_uri}
        write_json(work / "decision.json", record)
        write_report(work / "report.html", evaluation_dir=evaluation_dir, ensemble_dir=ensemble_dir, decision=record)
    log(f"promote: {sentence(record)}; see `segline summary`")


def _register(
    tracker: tracking.Tracker, bundle: Path, description: DatasetInfo, dataset_dir: Path, test: dict[str, Any]
) -> tracking.Version:
    """The registered version of this bundle, with a run of its own.

    The run holds its test scores and the statistics of its training pairs, which validate compares new data with.
    """
    key = tracking.key("bundle", bundle_hash(bundle), description.content_hash)
    facts = {"segline.dataset": description.content_hash, **tracking.code_version()}
    if description.source_revision:
        facts["segline.source_revision"] = description.source_revision
    members = " + ".join(member.candidate for member in read_bundle(bundle).members)
    record = tracker.begin(key, f"ensemble-{key[:8]}", {"members": members}, facts)
    with tracker.closing(record):
        tracker.log_scores(record, {f"test_{name}": test[name] for name in ("miou", "mean_dice", "pixel_accuracy")})
        if (dataset_dir / tracking.STATISTICS).is_file():
            tracker.attach(record, dataset_dir / tracking.STATISTICS)
        return tracker.register(record, key, bundle, facts)


def _settled(
    tracker: tracking.Tracker, version: tracking.Version, description: DatasetInfo, params: Params
) -> Decision | None:
    """The decision that an earlier run made of this version, if nothing has changed since."""
    if DECISION not in version.tags:
        return None
    decision = Decision(**json.loads(version.tags[DECISION]))
    champion = tracker.holder(tracking.CHAMPION)
    number = champion.number if champion else None
    same_rival = number == decision.against or (decision.promoted and number == version.number)
    same_question = (decision.dataset, decision.settings) == (description.content_hash, _settings(params))
    return decision if same_rival and same_question else None


def _settings(params: Params) -> str:
    """What a decision depends on beside the data and the models."""
    return tracking.key(
        as_json(params.promote),
        params.seed,
        source_hash("segline.metrics", "segline.inference", "segline.stages.promote"),
    )


def _decide(
    tracker: tracking.Tracker,
    version: tracking.Version,
    description: DatasetInfo,
    dataset_dir: Path,
    ensemble_dir: Path,
    params: Params,
) -> Decision:
    mine = read_counts(ensemble_dir / "test_counts.npz")
    miou = float(scores(mine.sum(0), description.names)["miou"])
    champion = tracker.holder(tracking.CHAMPION)
    if champion is None or champion.number == version.number:
        reason = "it is the first" if champion is None else IS_CHAMPION
        asked = (description.content_hash, _settings(params))
        return Decision(True, reason, version.number, None, miou, None, None, *asked)
    theirs = _count_champion(tracker, champion, description, dataset_dir, params)
    settings = params.promote
    found = compare(mine, theirs, resamples=settings.resamples, confidence=settings.confidence, seed=params.seed)
    seen = _count_seen(tracker, champion, dataset_dir)
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


def _count_seen(tracker: tracking.Tracker, champion: tracking.Version, dataset_dir: Path) -> int:
    """Today's test crops of images that the champion was trained on, as far as that was kept with it."""
    with TemporaryDirectory() as folder:
        file = tracker.attached(champion, tracking.STATISTICS, Path(folder))
        candidates_dir = set() if file is None else set(pd.read_parquet(file, columns=["key"])["key"])
    return int(open_split(dataset_dir, "test").index["key"].isin(candidates_dir).sum())


def _count_champion(
    tracker: tracking.Tracker, champion: tracking.Version, description: DatasetInfo, dataset_dir: Path, params: Params
) -> Counts:
    """The champion's counts on today's test images."""
    folder = tracker.fetch(champion)
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


def _move_aliases(tracker: tracking.Tracker, version: tracking.Version, decision: Decision) -> None:
    """A version is challenger until it wins; the champion it replaced stays named in a tag."""
    if not decision.promoted:
        tracker.point(tracking.CHALLENGER, version)
        return
    if decision.against is not None:
        tracker.tag(version, {"segline.previous_champion": str(decision.against)})
    tracker.point(tracking.CHAMPION, version)
    tracker.drop(tracking.CHALLENGER)


def read_counts(path: Path) -> Counts:
    """The confusion matrices (n, k, k) that ensemble wrote.

    Raises:
        StageError: they are missing.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return np.asarray(content["counts"])
    except (OSError, ValueError, KeyError):
        raise StageError(f"{path} is missing or broken; run the stage that writes it again") from None


def _test_metrics(ensemble_dir: Path) -> dict[str, Any]:
    try:
        metrics = dict(json.loads((ensemble_dir / "metrics.json").read_text()))
        return {key: metrics[key] for key in ("test", "dataset")}
    except (OSError, ValueError, KeyError):
        raise StageError(
            f"{ensemble_dir / 'metrics.json'} is missing or broken; run `segline ensemble` again"
        ) from None
