"""The result of a preparation step, which a loss or a model may have, and which train runs before the first trial."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The result of a preparation step.

    Attributes:
        files: The files that it wrote, relative to its folder.
        scores: Its metrics by name.
        message: The result in words.
    """

    files: tuple[str, ...]
    scores: dict[str, float]
    message: str
