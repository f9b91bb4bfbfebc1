"""Promote: register the winner, and make it champion if it is better on the same test images.

The decision is kept with the registered version before the alias moves, so that a run cut off in between decides the
same when it is repeated. The registry is locked from the last look at the champion to the move of its alias.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from torch import nn

from segline.artifacts.artifact import Record
from segline.artifacts.bundle import Bundle, bundle_hash, read_bundle
from segline.artifacts.code import code_hash
from segline.artifacts.dataset import DATASET, DatasetInfo, read_dataset_info, split_folder
from segline.artifacts.ensemble import ENSEMBLE, MODEL, TEST_COUNTS, read_metrics
from segline.artifacts.evaluation import EVALUATION, CountedCrops, read_counts
from segline.artifacts.promotion import PROMOTION, REPORT, Decision, write_decision
from segline.artifacts.validation import STATISTICS
from segline.config.params import Params
from segline.config.serialization import as_json
from segline.data.reading import open_split
from segline.data.split import Split
from segline.errors import StageError, TrackingError, one_line
from segline.inference.bundle import load_models
from segline.inference.predict import TRAIN_AGAIN, count_split, naming_model, predict_labels
from segline.metrics.comparison import sample_size
from segline.metrics.confusion import Counts, scores
from segline.progress import log
from segline.reporting.report import sentence, write_report
from segline.stages.judgement import hash_test_set, judge, judge_first, times_judged
from segline.stages.settlement import IS_CHAMPION, earlier_decision, is_rival, settle
from segline.tracking import lines, provenance, registry, runs, tags
from segline.tracking.client import Experiment
from segline.tracking.locks import registry_lock
from segline.tracking.registry import CHAMPION, Version


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

    def open_test(self) -> Split:
        """Open the test split."""
        return open_split(self.dataset_dir, split_folder("test", self.params.evaluate.on))

    @property
    def settings_hash(self) -> str:
        """The hash of what a decision depends on beside the data and the models."""
        judged = self.params.evaluate
        settings = as_json(self.params.promote), judged.on, judged.max_pixels
        return provenance.key(*settings, self.params.seed, code_hash(PROMOTION.code))


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
    DATASET.check(dataset_dir, folders=(split_folder("test", params.evaluate.on),))
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
        with experiment.explained_errors("promoting"):
            decision = _decide_and_settle(contest, _register(contest, metrics["test"]))
        record = asdict(decision) | {"model": params.name, "tracking_uri": experiment.shown_uri}
        write_decision(work, record)
        write_report(work / REPORT, evaluation_dir=evaluation_dir, ensemble_dir=ensemble_dir, decision=record)
    with experiment.explained_errors("promoting"):
        lines.record_judged(experiment, decision.version)
    log(f"promote: {sentence(record)}; see `segline summary`")


def _refuse_nonfinite(contest: Contest) -> None:
    """Let the models that would be registered predict a few test images, whose logits have to be finite."""
    folder = contest.ensemble_dir / MODEL
    split, models = contest.open_test(), load_models(folder, read_bundle(folder))
    settings = contest.params.evaluate
    positions = next(split.ranges(settings.batch_size, settings.max_pixels))
    with naming_model(str(folder), TRAIN_AGAIN):
        predict_labels(models, split.take(positions)[0], split.keys(positions), max_pixels=settings.max_pixels)


def _register(contest: Contest, test_metrics: Record) -> Version:
    """Return the registered version of the challenger's bundle, which has a run of its own.

    The run holds the test metrics and the statistics of the training pairs, with which validate compares new data.
    """
    experiment, info, bundle = contest.experiment, contest.info, contest.ensemble_dir / MODEL
    key = provenance.key("bundle", bundle_hash(bundle), info.content_hash)
    version_tags = {tags.DATASET_HASH: info.content_hash, **provenance.code_version()}
    if info.source_revision:
        version_tags[tags.SOURCE_REVISION] = info.source_revision
    described = read_bundle(bundle).members
    members = " + ".join(member.candidate for member in described)
    if sources := sorted({member.init["source"] for member in described if member.init}):
        version_tags[tags.INIT] = ", ".join(sources)
    with registry_lock(experiment):  # two processes would make two runs
        run_id = runs.start_run(experiment, key, f"ensemble-{key[:8]}", {"members": members}, version_tags)
    with runs.closing(experiment, run_id):
        names = ("miou", "mean_dice", "pixel_accuracy")
        runs.log_metrics(experiment, run_id, {f"test_{name}": test_metrics[name] for name in names})
        if (contest.dataset_dir / STATISTICS).is_file():
            runs.log_artifact(experiment, run_id, contest.dataset_dir / STATISTICS)
        return registry.register_model(experiment, run_id, key, bundle, version_tags)


def _decide_and_settle(contest: Contest, version: Version) -> Decision:
    """Decide until the champion is the same before and after: another promotion may end while this one compares."""
    experiment = contest.experiment
    while True:
        decision = _earlier_decision(contest, version) or _decide(contest, version)
        settled = settle(experiment, version, decision, enabled=contest.params.promote.enabled)
        if settled:
            return settled
        log(f"promote: {contest.params.name} has another champion since the comparison began; comparing again")
        version = registry.get_version(experiment, version.number) or version


def _earlier_decision(contest: Contest, version: Version) -> Decision | None:
    """Return the decision of an earlier run on this version, if nothing has changed since."""
    decision = earlier_decision(version)
    if decision is None or not is_rival(contest.experiment, version, decision):
        return None
    same_question = (decision.dataset, decision.settings) == (contest.info.content_hash, contest.settings_hash)
    return decision if same_question else None


def _decide(contest: Contest, version: Version) -> Decision:
    """Compare the version on the test split with the champion, or without one with the most frequent class."""
    tested = read_counts(contest.ensemble_dir / TEST_COUNTS, ENSEMBLE)
    champion = registry.get_by_alias(contest.experiment, CHAMPION)
    size = sample_size(tested.counts, keys=tested.keys, groups=tested.groups)
    decision = Decision(
        promoted=True,
        reason=IS_CHAMPION,
        version=version.number,
        test_miou=float(scores(tested.counts.sum(0), contest.info.names)["miou"]),
        frames=size.frames,
        groups=size.groups,
        effective_frames=size.effective,
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


def _count_trained_on(contest: Contest, champion: Version) -> int:
    """Return how many test items show images that the champion was trained on, if its run has the statistics."""
    with TemporaryDirectory() as folder:
        file = registry.download_artifact(contest.experiment, champion, STATISTICS, Path(folder))
        trained = set() if file is None else set(pd.read_parquet(file, columns=["key"])["key"])
    return int(contest.open_test().index["key"].isin(trained).sum())


def _load_champion(contest: Contest, champion: Version) -> tuple[list[nn.Module], Bundle]:
    """Return the champion's models and their description.

    Raises:
        StageError: It cannot be loaded, whatever the error is.
    """
    folder = registry.download_bundle(contest.experiment, champion)
    try:
        bundle = read_bundle(folder)
        return load_models(folder, bundle), bundle
    except Exception as error:
        reason = one_line(error).partition("; ")[0]
        name = f"champion {contest.params.name} v{champion.number}"
        raise StageError(f"{name} cannot be loaded ({reason}); {_rollback_advice(contest)}") from None


def _rollback_advice(contest: Contest) -> str:
    command = f"segline registry rollback --name {contest.params.name} --reason TEXT"
    return f"`{command}` makes the champion before it champion again"


def _count_champion(contest: Contest, champion: Version, tested: CountedCrops) -> Counts:
    """Return the champion's counts on the test split.

    Raises:
        TrackingError: The champion has other classes.
        StageError: The champion cannot be loaded, or the challenger was tested on other labels.
    """
    name, info = f"champion {contest.params.name} v{champion.number}", contest.info
    models, bundle = _load_champion(contest, champion)
    if [entry.name for entry in bundle.classes] != info.names:
        raise TrackingError(
            f"{name} has the classes "
            f"{', '.join(entry.name for entry in bundle.classes)}, the data have {', '.join(info.names)}; "
            "give `name` in params.yaml another value"
        )
    with naming_model(name, _rollback_advice(contest), TrackingError):
        counts = count_split(
            models,
            contest.open_test(),
            classes=len(info.classes),
            batch_size=contest.params.evaluate.batch_size,
            max_pixels=contest.params.evaluate.max_pixels,
        )
    if not np.array_equal(counts.sum(-1), tested.counts.sum(-1)):
        file = contest.ensemble_dir / TEST_COUNTS
        raise StageError(f"{file} counts other labels than {contest.dataset_dir} has; run `segline ensemble` again")
    return counts
