"""Promote: register the winner, and make it champion if it is better on the same test images.

The decision is kept with the registered version before the alias moves, so that a run cut off in between decides the
same when it is repeated.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from segline.artifacts.artifact import Record
from segline.artifacts.bundle import bundle_hash, read_bundle
from segline.artifacts.code import code_hash
from segline.artifacts.dataset import DATASET, DatasetInfo, read_dataset_info
from segline.artifacts.ensemble import ENSEMBLE, MODEL, TEST_COUNTS, read_metrics
from segline.artifacts.evaluation import EVALUATION, CountedCrops, read_counts
from segline.artifacts.promotion import PROMOTION, REPORT, Decision, write_decision
from segline.artifacts.validation import STATISTICS
from segline.config.params import Params
from segline.config.serialization import as_json
from segline.data.shards import open_split
from segline.errors import StageError, TrackingError
from segline.inference.bundle import load_models
from segline.inference.predict import TRAIN_AGAIN, count_split, naming_model, probabilities
from segline.metrics.confusion import Counts, scores
from segline.progress import log
from segline.reporting.report import sentence, write_report
from segline.stages.judgement import hash_test_set, judge, judge_first, times_judged
from segline.tracking import provenance, registry, runs, tags
from segline.tracking.client import Experiment
from segline.tracking.registry import CHALLENGER, CHAMPION, Version
from segline.tracking.tags import DECISION, ROLLED_BACK

IS_CHAMPION = "it is champion already"


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The inputs of a decision.

    Attributes:
        experiment: The experiment and the registered model of the same name.
        params: The parameters of the line.
        info: The facts about the data set.
        dataset_dir: The folder that label wrote.
        ensemble_dir: The folder that ensemble wrote.
    """

    experiment: Experiment
    params: Params
    info: DatasetInfo
    dataset_dir: Path
    ensemble_dir: Path

    @property
    def settings_hash(self) -> str:
        """The hash of what a decision depends on beside the data and the models."""
        return provenance.key(as_json(self.params.promote), self.params.seed, code_hash(PROMOTION.code))


def run(
    params: Params, *, dataset_dir: Path, evaluation_dir: Path, ensemble_dir: Path, tracking_uri: str, out: Path
) -> None:
    """Write ``decision.json`` and ``report.html``; move the aliases in the registry.

    Raises:
        StageError: The ensemble was tested on other data, its predictions are not finite, or a file of an input is
            missing or damaged.
        TrackingError: The registry cannot be reached, or its champion has other classes or predictions that are not
            finite.
    """
    DATASET.check(dataset_dir, folders=("test",))
    EVALUATION.check(evaluation_dir)
    ENSEMBLE.check(ensemble_dir)
    info, metrics = read_dataset_info(dataset_dir), read_metrics(ensemble_dir)
    if metrics["dataset"] != info.content_hash:
        raise StageError(f"{ensemble_dir} was tested on other data than {dataset_dir}; run `segline ensemble` again")
    experiment = Experiment(tracking_uri, params.name)
    contest = Contest(
        experiment=experiment, params=params, info=info, dataset_dir=dataset_dir, ensemble_dir=ensemble_dir
    )
    _refuse_nonfinite(contest)
    with PROMOTION.writing(out) as work:
        version = _register(contest, metrics["test"])
        decision = _earlier_decision(contest, version) or _decide(contest, version)
        decision = _settle(contest, version, decision)
        _move_aliases(experiment, version, decision)
        record = asdict(decision) | {"model": params.name, "tracking_uri": tracking_uri}
        write_decision(work, record)
        write_report(work / REPORT, evaluation_dir=evaluation_dir, ensemble_dir=ensemble_dir, decision=record)
    log(f"promote: {sentence(record)}; see `segline summary`")


def _refuse_nonfinite(contest: Contest) -> None:
    """Let the models that would be registered predict a few test images, whose logits have to be finite."""
    folder = contest.ensemble_dir / MODEL
    split, models = open_split(contest.dataset_dir, "test"), load_models(folder, read_bundle(folder))
    positions = range(min(len(split), contest.params.evaluate.batch_size))
    with naming_model(str(folder), TRAIN_AGAIN):
        probabilities(models, split.take(positions)[0], split.keys(positions))


def _register(contest: Contest, test_metrics: Record) -> Version:
    """Return the registered version of the challenger's bundle, which has a run of its own.

    The run holds the test metrics and the statistics of the training pairs, with which validate compares new data.
    """
    experiment, info, bundle = contest.experiment, contest.info, contest.ensemble_dir / MODEL
    key = provenance.key("bundle", bundle_hash(bundle), info.content_hash)
    version_tags = {tags.DATASET_HASH: info.content_hash, **provenance.code_version()}
    if info.source_revision:
        version_tags[tags.SOURCE_REVISION] = info.source_revision
    members = " + ".join(member.candidate for member in read_bundle(bundle).members)
    run_id = runs.start_run(experiment, key, f"ensemble-{key[:8]}", {"members": members}, version_tags)
    with runs.closing(experiment, run_id):
        names = ("miou", "mean_dice", "pixel_accuracy")
        runs.log_metrics(experiment, run_id, {f"test_{name}": test_metrics[name] for name in names})
        if (contest.dataset_dir / STATISTICS).is_file():
            runs.log_artifact(experiment, run_id, contest.dataset_dir / STATISTICS)
        return registry.register_model(experiment, run_id, key, bundle, version_tags)


def _earlier_decision(contest: Contest, version: Version) -> Decision | None:
    """Return the decision of an earlier run on this version, if nothing has changed since."""
    if DECISION not in version.tags:
        return None
    decision = Decision(**json.loads(version.tags[DECISION]))
    champion = registry.get_by_alias(contest.experiment, CHAMPION)
    number = champion.number if champion else None
    same_rival = number == decision.against or (decision.promoted and number == version.number)
    same_question = (decision.dataset, decision.settings) == (contest.info.content_hash, contest.settings_hash)
    return decision if same_rival and same_question else None


def _decide(contest: Contest, version: Version) -> Decision:
    """Compare the version on the test split with the champion, or without one with the most frequent class."""
    tested = read_counts(contest.ensemble_dir / TEST_COUNTS, ENSEMBLE)
    champion = registry.get_by_alias(contest.experiment, CHAMPION)
    decision = Decision(
        promoted=True,
        reason=IS_CHAMPION,
        version=version.number,
        test_miou=float(scores(tested.counts.sum(0), contest.info.names)["miou"]),
        dataset=contest.info.content_hash,
        settings=contest.settings_hash,
    )
    if champion and champion.number == version.number:
        return decision
    test_set = hash_test_set(tested)
    judged = 1 + times_judged(registry.list_versions(contest.experiment), test_set)
    decision = replace(decision, test_set=test_set, judged=judged)
    if champion is None:
        return judge_first(decision, tested, contest.info)
    decision = replace(decision, against=champion.number, seen_by_champion=_count_trained_on(contest, champion))
    return judge(decision, tested, _count_champion(contest, champion, tested), contest.params.promote)


def _settle(contest: Contest, version: Version, decision: Decision) -> Decision:
    """Keep the decision with the version; return it without a promotion that is switched off or was rolled back."""
    if not contest.params.promote.enabled:
        decision = _withhold(decision, "promotion is off (promote.enabled)")
    registry.set_tags(contest.experiment, version, {DECISION: asdict(decision)})
    # A rollback is not kept with the version, so that the decision counts again once the tag is deleted.
    if ROLLED_BACK in version.tags:
        decision = _withhold(decision, f"v{version.number} was rolled back; delete its tag {ROLLED_BACK} to allow it")
    return decision


def _withhold(decision: Decision, why: str) -> Decision:
    """Return a decision that moves no champion; a version that is champion already stays champion."""
    if not decision.promoted or decision.reason == IS_CHAMPION:
        return decision
    return replace(decision, promoted=False, reason=f"{decision.reason}, but {why}")


def _count_trained_on(contest: Contest, champion: Version) -> int:
    """Return how many test crops show images that the champion was trained on, if its run has the statistics."""
    with TemporaryDirectory() as folder:
        file = registry.download_artifact(contest.experiment, champion, STATISTICS, Path(folder))
        trained = set() if file is None else set(pd.read_parquet(file, columns=["key"])["key"])
    return int(open_split(contest.dataset_dir, "test").index["key"].isin(trained).sum())


def _count_champion(contest: Contest, champion: Version, tested: CountedCrops) -> Counts:
    """Return the champion's counts on the test split.

    Raises:
        TrackingError: The champion has other classes.
        StageError: The challenger was tested on other labels.
    """
    folder = registry.download_bundle(contest.experiment, champion)
    bundle, info = read_bundle(folder), contest.info
    if [entry.name for entry in bundle.classes] != info.names:
        raise TrackingError(
            f"champion {contest.params.name} v{champion.number} has the classes "
            f"{', '.join(entry.name for entry in bundle.classes)}, the data have {', '.join(info.names)}; "
            "give `name` in params.yaml another value"
        )
    name = f"champion {contest.params.name} v{champion.number}"
    with naming_model(name, "`segline registry rollback` puts its predecessor back", TrackingError):
        counts = count_split(
            load_models(folder, bundle),
            open_split(contest.dataset_dir, "test"),
            classes=len(info.classes),
            batch_size=contest.params.evaluate.batch_size,
        )
    if not np.array_equal(counts.sum(-1), tested.counts.sum(-1)):
        file = contest.ensemble_dir / TEST_COUNTS
        raise StageError(f"{file} counts other labels than {contest.dataset_dir} has; run `segline ensemble` again")
    return counts


def _move_aliases(experiment: Experiment, version: Version, decision: Decision) -> None:
    """Make the version champion and name the champion before it in a tag, or make the version challenger."""
    if not decision.promoted:
        registry.set_alias(experiment, CHALLENGER, version)
        return
    if decision.against is not None:
        registry.set_tags(experiment, version, {tags.PREVIOUS_CHAMPION: str(decision.against)})
    registry.set_alias(experiment, CHAMPION, version)
    registry.delete_alias(experiment, CHALLENGER)
