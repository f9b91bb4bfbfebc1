"""The sections of ``params.yaml``, one module per stage: frozen dataclasses whose defaults are those of the line.

A field's annotation holds its range, unit and meaning (see :mod:`segline.config.fields`). The method ``errors`` of a
section yields what is wrong between fields that are each right by themselves.
"""

from segline.config.sections.ensemble import Ensemble
from segline.config.sections.evaluate import Audit, Evaluate
from segline.config.sections.ingest import Dvc, Ingest, Synthetic
from segline.config.sections.label import STREET_CLASSES, Frames, Label, Split
from segline.config.sections.promote import Promote
from segline.config.sections.search import Search
from segline.config.sections.train import Augment, FineTuning, Train
from segline.config.sections.validate import RuleSeverities, Severity, StopOrQuarantine, StopOrWarn, Validate

__all__ = [
    "STREET_CLASSES",
    "Audit",
    "Augment",
    "Dvc",
    "Ensemble",
    "Evaluate",
    "FineTuning",
    "Frames",
    "Ingest",
    "Label",
    "Promote",
    "RuleSeverities",
    "Search",
    "Severity",
    "Split",
    "StopOrQuarantine",
    "StopOrWarn",
    "Synthetic",
    "Train",
    "Validate",
]
