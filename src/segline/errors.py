"""The errors that a user can cause, each with the exit code that the command line returns.

::

    SeglineError                      1
    ├── ParamsError                   2   params.yaml: unknown key, wrong type, out of range, unknown name
    ├── SourceError                   3   the source of the data: missing, empty, unreadable
    ├── DataError                     4   the data: broken files, unknown label values, no split possible
    ├── StageError                    5   a stage's input is missing, or its output cannot be written
    ├── TrainingError                 6   a trial failed
    ├── TrackingError                 7   the MLflow server or registry
    ├── StoppedError                 75   training was asked to stop and saved its state; the same command continues
    └── BusyError                    75   another run is writing the output; the same command works when that has ended

A message says in one line what is wrong, where, what was got, what was expected and what to do. Any other exception
is a fault of Segline: it is one line as well with the exit code 1, and its traceback is kept in a file that the line
names (SEGLINE_DEBUG=1 prints it instead). A lack of memory, disk, files or network ends with the code 5.
"""

from segline.redaction import redact

LONGEST_VALUE = 300
"""The most characters of a value that a message shows."""
LONGEST_LINE = 2000
MOST_LINES = 50
"""The most errors of a file of parameters that are shown."""


class SeglineError(Exception):
    """An error that the user can fix; its text is shown without a traceback."""

    exit_code = 1


class ParamsError(SeglineError):
    """The parameters are wrong; ``errors`` lists every error that was found, one line each."""

    exit_code = 2

    def __init__(self, origin: str, errors: list[str]) -> None:
        self.errors = [clip(error, LONGEST_LINE) for error in errors]
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        shown = [f"  {error}" for error in self.errors[:MOST_LINES]]
        more = len(errors) - len(shown)
        rest = [f"  and {more} more"] if more else []
        super().__init__("\n".join([f"{clip(origin, LONGEST_LINE)}: {count}, nothing was run", *shown, *rest]))


class SourceError(SeglineError):
    """The source of the data cannot be used."""

    exit_code = 3


class DataError(SeglineError):
    """The data are broken or do not match the layout."""

    exit_code = 4


class StageError(SeglineError):
    """A stage cannot start, or cannot write its output."""

    exit_code = 5


class TrainingError(SeglineError):
    """A trial could not be trained."""

    exit_code = 6


class TrackingError(SeglineError):
    """MLflow cannot be reached, or holds something unexpected."""

    exit_code = 7


class StoppedError(SeglineError):
    """Training was asked to stop and saved its state; 75 is EX_TEMPFAIL of sysexits.h, "try again"."""

    exit_code = 75


class BusyError(SeglineError):
    """Another process is writing the output, and the same command works when that has ended."""

    exit_code = 75


def one_line(error: BaseException) -> str:
    """Return the text of an error without line breaks and secrets, or the name of its type if it has no text."""
    return redact(" ".join(str(error).split())) or type(error).__name__


def clip(text: str, longest: int = LONGEST_VALUE) -> str:
    """Return a text that is cut after so many characters, with a mark that says so."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"


def shown(value: object) -> str:
    """Return how a message shows a value: its ``repr``, cut after ``LONGEST_VALUE`` characters."""
    return clip(repr(value))
