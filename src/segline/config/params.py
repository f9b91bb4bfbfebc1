"""The whole of ``params.yaml`` as a dataclass."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from segline.config import tables
from segline.config.fields import Pattern, Range, height_and_width
from segline.config.sections import Ensemble, Evaluate, Ingest, Label, Promote, Train, Validate

Name = Pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits, '.', '_' and '-'")


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of ``params.yaml``: a section per stage, and what they share."""

    name: Annotated[str, Name, "the name of the MLflow experiment and of the registered model"] = "streets"
    seed: Annotated[int, Range(0, 2**32 - 1), "the seed of every random choice"] = 7
    ingest: Ingest = field(default_factory=Ingest)
    validate: Validate = field(default_factory=Validate)
    label: Label = field(default_factory=Label)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    ensemble: Ensemble = field(default_factory=Ensemble)
    promote: Promote = field(default_factory=Promote)

    def errors(self) -> Iterator[str]:
        """Yield what is wrong between fields that are each right by themselves."""
        for section in (self.validate, self.label, self.train):
            yield from section.errors()
        window, size = height_and_width(self.train.augment.crop), self.label.crop_size
        if any(side > most for side, most in zip(window, size, strict=True)):
            yield f"train.augment.crop: got {self.train.augment.crop}, expected no more than label.crop"
        for i, terms in enumerate(self.train.losses):
            for term in terms:
                known = term.name in tables.options("losses")
                for name in tables.distances(term.name) if known else ():
                    if name not in self.label.distances:
                        yield f"label.distances: lacks {name!r}, which train.losses[{i}].{term.name} needs; add it"
