"""The results of a run: the summary on the terminal and the report as one HTML file."""

import base64
import html
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any

from rich.table import Table

from segline.artifacts.artifact import Record
from segline.artifacts.ensemble import ENSEMBLE, read_metrics
from segline.artifacts.evaluation import (
    CURVES_PLOT,
    EVALUATION,
    MISSING_LABELS,
    count_missing_labels,
    missing_label_pictures,
    pictures,
    read_leaderboard,
)
from segline.artifacts.promotion import PROMOTION, REPORT, read_decision
from segline.progress import plain_console

SUSPECTS_SHOWN = 4
HEADINGS = ("candidate", "val mIoU", "val mean Dice", "val pixel accuracy")

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Segline: $model</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } th, td { padding: .25rem .8rem; border-bottom: 1px solid #d8dee4 }
td { text-align: right; font-variant-numeric: tabular-nums } td:first-child, th:first-child { text-align: left }
img { max-width: 100%; display: block; margin: .6rem 0 } .note { color: #59636e }
</style></head><body>
<h1>$model, version $version</h1>
<p><strong>$sentence.</strong></p>
<p class="note">Data $dataset. $test_note</p>
<h2>Candidates on the validation split</h2>$leaderboard
<h2>Ensemble on the test split: $members</h2>$test
<h2>Curves</h2>$curves
<h2>Pictures</h2>$pictures
<h2>Objects that probably lack a label</h2>$missing_labels
</body></html>
""")


def print_summary(*, evaluation_dir: Path, ensemble_dir: Path, promotion_dir: Path) -> None:
    """Print the candidates, the ensemble and the champion, and the addresses of MLflow and the report."""
    EVALUATION.check(evaluation_dir)
    ENSEMBLE.check(ensemble_dir, folders=())
    PROMOTION.check(promotion_dir)
    board = read_leaderboard(evaluation_dir)
    metrics, decision = read_metrics(ensemble_dir), read_decision(promotion_dir)
    table = Table(title=f"{decision['model']}: candidates on the validation split")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left")
    for row in board.itertuples(index=False):
        table.add_row(row[0], *(f"{value:.3f}" for value in row[1:]))
    # A pipe has no width; 80 columns would cut long names.
    plain_console(width=None if sys.stdout.isatty() else 200).print(table)
    test = metrics["test"]
    print(f"ensemble {' + '.join(metrics['members'])}: test mIoU {test['miou']:.3f}. {_test_note(metrics, decision)}")
    print(f"{sentence(decision)}\n")
    uri = decision["tracking_uri"]
    print(f"runs and registry:  {uri if uri.startswith('http') else f'mlflow ui --backend-store-uri {uri}'}")
    print(f"report:             {promotion_dir / REPORT}")


def write_report(path: Path, *, evaluation_dir: Path, ensemble_dir: Path, decision: Record) -> None:
    """Write the report as one HTML file that needs no other file."""
    metrics = read_metrics(ensemble_dir)
    page = PAGE.substitute(
        model=html.escape(decision["model"]),
        version=decision["version"],
        sentence=html.escape(sentence(decision)),
        dataset=decision["dataset"][:12],
        test_note=_test_note(metrics, decision),
        leaderboard=_table(HEADINGS, read_leaderboard(evaluation_dir).itertuples(index=False)),
        members=html.escape(" + ".join(metrics["members"])),
        test=_table(("class", "IoU", "Dice"), _by_class(metrics["test"])),
        curves=_image(evaluation_dir / CURVES_PLOT),
        pictures="".join(map(_image, pictures(evaluation_dir))),
        missing_labels=_missing_labels(evaluation_dir),
    )
    path.write_text(page, encoding="utf-8")


def sentence(decision: Record) -> str:
    """Return the decision in words."""
    name = f"{decision['model']} version {decision['version']}"
    if decision["promoted"]:
        return f"{name} is champion: {decision['reason']}"
    rival = f", version {decision['against']} champion" if decision["against"] else ""
    return f"{name} stays challenger{rival}: {decision['reason']}"


def _test_note(metrics: Record, decision: Record) -> str:
    images = f"{metrics['test_images']} test images"
    if metrics["test_is_val"]:
        use = f"The {images} are the validation split, as there is no test split, so these scores are optimistic."
    else:
        use = f"The {images} were not used for anything else."
    return " ".join(filter(None, [use, _sample_note(decision)]))


def _sample_note(decision: Record) -> str:
    """Return how much the test images say; nothing for images that are each a group of its own."""
    frames, groups = decision.get("frames"), decision.get("groups")
    if not frames or frames == groups:
        return ""
    worth = f"they say as much as about {decision['effective_frames']:.0f} independent ones"
    if groups == 1:
        return f"All {frames} are of one group: {worth} of it, and nothing of another group."
    return f"The {frames} are of {groups} groups: {worth}."


def _missing_labels(evaluation_dir: Path) -> str:
    """Return the number of objects that probably lack a label, advice, and pictures of the most confident ones."""
    count = count_missing_labels(evaluation_dir)
    if not count:
        return "<p>The best candidate on the validation split sees no object without a label.</p>"
    shown = islice(missing_label_pictures(evaluation_dir), SUSPECTS_SHOWN)
    objects = "1 object" if count == 1 else f"{count} objects"
    return (
        f"<p>The best candidate on the validation split sees {objects} without a label; the list is "
        f"<code>{html.escape(str(evaluation_dir / MISSING_LABELS))}</code>. The most confident ones:</p>"
        f"{''.join(map(_image, shown))}"
        "<p>Some of them are real and some are mistakes of the model. Copy the rows of the real ones to "
        "<code>exclusions.csv</code>, and <code>dvc repro</code> trains without these objects.</p>"
    )


def _by_class(scores: Record) -> Iterable[tuple[Any, ...]]:
    yield "mean", scores["miou"], scores["mean_dice"]
    for name, value in scores["iou"].items():
        yield name, value, scores["dice"][name]


def _table(headings: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return "absent"
    return f"{value:.3f}" if isinstance(value, float) else html.escape(str(value))


def _image(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{content}">'
