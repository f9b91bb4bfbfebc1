"""The whole of ``params.yaml`` as a dataclass."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from segline.config import tables
from segline.config.components import ComponentSpec
from segline.config.fields import Pattern, Range
from segline.config.sections import Ensemble, Evaluate, Ingest, Label, Promote, Train, Validate

Name = Pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits, '.', '_' and '-'")


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The network that the loss semeda compares label maps with; trained only when a loss of the grid asks for it."""

    steps: Annotated[int, Range(1, 1_000_000), "of training at most"] = 1000
    batch_size: Annotated[int, Range(1, 4096), "label maps in a step"] = 8
    learning_rate: Annotated[float, Range(1e-8, 10), "of Adam"] = 1e-2
    min_accuracy: Annotated[float, Range(0, 1), "of edges on held-out label maps, at which training ends"] = 0.999


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of ``params.yaml``: a section per stage, and what they share."""

    name: Annotated[str, Name, "the name of the MLflow experiment and of the registered model"] = "streets"
    seed: Annotated[int, Range(0, 2**32 - 1), "the seed of every random choice"] = 7
    ingest: Ingest = field(default_factory=Ingest)
    validate: Validate = field(default_factory=Validate)
    label: Label = field(default_factory=Label)
    edges: Edges = field(default_factory=Edges)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    ensemble: Ensemble = field(default_factory=Ensemble)
    promote: Promote = field(default_factory=Promote)

    def errors(self) -> Iterator[str]:
        """Yield what is wrong between fields that are each right by themselves."""
        for section in (self.validate, self.label, self.train):
            yield from section.errors()
        for i, terms in enumerate(self.train.losses):
            for term in terms:
                known = term.name in tables.options("losses")
                for name in tables.distances(term.name) if known else ():
                    if name not in self.label.distances:
                        yield f"label.distances: lacks {name!r}, which train.losses[{i}].{term.name} needs; add it"


def need_edges(losses: tuple[tuple[ComponentSpec, ...], ...]) -> bool:
    """Whether a loss of the grid compares edges, for which the stage edges trains a network."""
    return any(term.name == "semeda" for terms in losses for term in terms)
