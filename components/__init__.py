"""The stages as Kubeflow components: one folder each, with the same options as on the command line."""

from components.changed.component import changed
from components.ensemble.component import ensemble
from components.evaluate.component import evaluate
from components.ingest.component import ingest
from components.label.component import label
from components.outcome.component import outcome
from components.promote.component import promote
from components.train.component import train
from components.validate.component import validate

COMPONENTS = {
    "ingest": ingest,
    "validate": validate,
    "label": label,
    "train": train,
    "evaluate": evaluate,
    "ensemble": ensemble,
    "promote": promote,
}
"""The component of each stage, in the order of the pipeline."""

__all__ = ["COMPONENTS", "changed", "outcome"]
