"""What a loss may know of the data that it is built for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Task:
    """The classes of the data.

    Attributes:
        names: of the classes, in the order of their ids.
        background: the id of the class that is not foreground, or None.
        edge_network: the weights that the stage edges wrote, or None where it trained no network.
    """

    names: tuple[str, ...]
    background: int | None = None
    edge_network: Path | None = None
