"""The report is one page that needs nothing else; the summary says what a run came to."""

import json
from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image

from segline.artifacts.ensemble import ENSEMBLE
from segline.artifacts.evaluation import EVALUATION
from segline.artifacts.promotion import PROMOTION
from segline.errors import StageError
from segline.reporting import report

NAMES = {"car": 0.5, "<b>tram</b>": 0.25, "person & child": None}
LONG = "unet_resnet34-bounding_box+cross_entropy+dice.2"
DECISION = {
    "model": "streets",
    "version": 4,
    "promoted": True,
    "against": 3,
    "reason": "mIoU 0.6 > 0.5 & more",
    "dataset": "0123456789abcdef" * 4,
    "tracking_uri": "sqlite:////data/of/a/rather/long/path/that/no/terminal/holds/in/one/line/mlruns/mlflow.db",
}


@pytest.fixture
def folders(tmp_path):
    """The folders that evaluate, ensemble and promote wrote."""
    names = ("evaluation", "ensemble", "promotion")
    evaluation_dir, ensemble_dir, promotion_dir = (tmp_path / name for name in names)
    for folder in (evaluation_dir / "pictures", ensemble_dir, promotion_dir):
        folder.mkdir(parents=True)
    rows = [(LONG, 0.61234, 0.7, 0.9), ("unet-dice", 0.5, 0.6, 0.8)]
    board = pd.DataFrame(rows, columns=["candidate", "miou", "mean_dice", "pixel_accuracy"])
    board.to_csv(evaluation_dir / "leaderboard.csv", index=False)
    (evaluation_dir / "missing_labels").mkdir()
    (evaluation_dir / "missing_labels.csv").write_text("key,class\n" + "frame,car\n" * 7)
    suspects = [f"missing_labels/{rank:03d}-frame" for rank in range(1, 8)]
    for name in ("curves", 'pictures/a"onerror=b <i>', "pictures/b", *suspects):
        Image.new("RGB", (3, 2)).save(evaluation_dir / f"{name}.png")
    scores = {"miou": 0.375, "mean_dice": 0.45, "pixel_accuracy": 0.8, "iou": NAMES, "dice": NAMES}
    metrics = {
        "members": [LONG, "<script>"],
        "test": scores,
        "test_is_val": False,
        "test_images": 17,
        "dataset": "0123",
    }
    (ensemble_dir / "metrics.json").write_text(json.dumps(metrics))
    (promotion_dir / "decision.json").write_text(json.dumps(DECISION))
    folders = {"evaluation_dir": evaluation_dir, "ensemble_dir": ensemble_dir, "promotion_dir": promotion_dir}
    mark(folders)
    return folders


def mark(folders):
    for artifact in (EVALUATION, ENSEMBLE, PROMOTION):
        artifact.write_mark(folders[f"{artifact.name}_dir"])


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def write(folders, tmp_path):
    def write_and_read():
        path = tmp_path / "report.html"
        decision = DECISION | {"model": "<u>"}
        report.write_report(
            path, evaluation_dir=folders["evaluation_dir"], ensemble_dir=folders["ensemble_dir"], decision=decision
        )
        return Page(path.read_text())

    return write_and_read


@pytest.fixture
def page(write):
    return write()


def test_the_report_needs_nothing_beside_it(page):
    assert not set(page.tags) & {"script", "link", "iframe", "object", "base"}
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset", "data")]
    assert len(sources) == 3 + 4
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any(word in text for text in page.texts for word in ("@import", "url("))


def test_names_are_shown_and_never_markup(page):
    assert not set(page.tags) & {"b", "i", "u"}
    assert {name for name, _ in page.attributes} <= {"lang", "charset", "class", "alt", "src"}
    assert ("alt", 'a"onerror=b <i>') in page.attributes
    shown = " ".join(page.texts)
    for text in ("<b>tram</b>", "person & child", "<u>", "<script>", LONG, DECISION["reason"], "0123456789ab", "17"):
        assert text in shown


def test_scores_are_shown_and_an_absent_class_says_so(page):
    cells = [text.strip() for text in page.texts]
    assert cells[cells.index("person & child") + 1 :][:2] == ["absent", "absent"]
    assert cells[cells.index("<b>tram</b>") + 1 :][:2] == ["0.250", "0.250"]
    assert cells[cells.index("mean") + 1 :][:2] == ["0.375", "0.450"]
    # The first LONG is the leaderboard's.
    assert cells[cells.index(LONG) + 1 :][:3] == ["0.612", "0.700", "0.900"]


def test_missing_labels_are_counted_and_the_surest_are_shown(page):
    shown = " ".join(page.texts)
    assert "sees 7 objects without a label" in shown
    assert "missing_labels.csv" in shown
    assert "exclusions.csv" in shown
    suspects = [value for name, value in page.attributes if name == "alt" and value.endswith("-frame")]
    assert suspects == ["001-frame", "002-frame", "003-frame", "004-frame"]


@pytest.mark.parametrize(("rows", "said"), [("", "sees no object without"), ("frame,car\n", "sees 1 object without")])
def test_one_or_no_missing_label_is_a_sentence_too(folders, write, rows, said):
    (folders["evaluation_dir"] / "missing_labels.csv").write_text("key,class\n" + rows)
    assert said in " ".join(write().texts)


@pytest.mark.parametrize("content", [None, b"", b"class\ncar\n", b"\xff\xfe\xfa"])
def test_a_missing_or_broken_list_of_missing_labels_is_one_line(folders, write, content):
    path = folders["evaluation_dir"] / "missing_labels.csv"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StageError, match="missing or broken") as caught:
        write()
    assert str(path) in str(caught.value)


def test_the_summary_says_what_a_run_came_to(folders, capsys):
    report.print_summary(**folders)
    shown = capsys.readouterr().out
    for text in ("unet-dice", "0.612", "0.500", "0.375", "17 test images", report.sentence(DECISION)):
        assert text in shown
    assert f"--backend-store-uri {DECISION['tracking_uri']}\n" in shown
    assert f"{folders['promotion_dir'] / 'report.html'}\n" in shown


def test_the_summary_prints_names_as_they_are(folders, capsys):
    """Rich would read ``[red]`` as a color and ``:car:`` as a picture."""
    names = ["unet [red]$x$", "unet :car:"]
    board = pd.DataFrame([(name, 0.5, 0.5, 0.5) for name in names])
    board.to_csv(folders["evaluation_dir"] / "leaderboard.csv", index=False)
    (folders["promotion_dir"] / "decision.json").write_text(json.dumps(DECISION | {"model": "[bold]"}))
    mark(folders)
    report.print_summary(**folders)
    shown = capsys.readouterr().out
    assert [name for name in (*names, "[bold]") if name not in shown] == []


def test_the_summary_cuts_no_name_in_a_pipe(folders, capsys):
    report.print_summary(**folders)
    table, _, _ = capsys.readouterr().out.partition("ensemble ")
    assert LONG in table


@pytest.mark.parametrize(("test_is_val", "said"), [(True, "optimistic"), (False, "not used for anything else")])
def test_a_test_on_validation_is_called_optimistic(folders, capsys, test_is_val, said):
    path = folders["ensemble_dir"] / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test_is_val": test_is_val}))
    mark(folders)
    report.print_summary(**folders)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("promoted", "text"),
    [
        (True, "streets version 4 is champion: it is better"),
        (False, "streets version 4 stays challenger, version 3 champion: it is better"),
    ],
)
def test_the_decision_is_a_sentence(promoted, text):
    assert report.sentence(DECISION | {"promoted": promoted, "reason": "it is better"}) == text


@pytest.mark.parametrize("name", ["evaluation/leaderboard.csv", "ensemble/metrics.json", "promotion/decision.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\xfa"])
def test_a_missing_or_broken_file_is_one_line(folders, name, content):
    path = folders["evaluation_dir"].parent / name
    path.unlink()
    if content is not None and not (path.suffix == ".csv" and content == b"{"):
        path.write_bytes(content)
    with pytest.raises(StageError, match=r"is missing|is damaged") as caught:
        report.print_summary(**folders)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (
            1,
            "All 101 are of one group: they say as much as about 9 independent ones of it, and nothing of another "
            "group.",
        ),
        (4, "The 101 are of 4 groups: they say as much as about 9 independent ones."),
        (101, ""),
    ],
)
def test_the_summary_and_the_report_say_how_much_the_test_images_are_worth(folders, capsys, tmp_path, groups, said):
    decision = DECISION | {"frames": 101, "groups": groups, "effective_frames": 9.2}
    (folders["promotion_dir"] / "decision.json").write_text(json.dumps(decision))
    PROMOTION.write_mark(folders["promotion_dir"])
    report.print_summary(**folders)
    file = tmp_path / "report.html"
    inputs = {name: folder for name, folder in folders.items() if name != "promotion_dir"}
    report.write_report(file, **inputs, decision=decision)
    for shown in (capsys.readouterr().out, " ".join(Page(file.read_text()).texts)):
        assert f"were not used for anything else.{' ' if said else ''}{said}" in shown
        assert ("independent" in shown) == bool(said)
