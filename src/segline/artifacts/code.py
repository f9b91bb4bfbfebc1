"""The code that artifacts depend on, and a hash of it.

Every artifact declares ``code``, the modules and packages of ``src`` that its content depends on. DVC's
dependencies and the fingerprints that decide whether unfinished work is continued both come from there. A test
compares each declaration with the imports of the stage: each import is either declared or in ``LEFT_OUT``.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2]
"""The folder that holds the packages ``segline`` and ``streets``."""

LEFT_OUT = {
    "segline": "It holds the version, which changes with every release.",
    "segline.artifacts.artifact": "It marks formats and words errors.",
    "segline.artifacts.mark": "Its sums tell whether files are whole.",
    "segline.artifacts.code": "It hashes code; the hashes are compared, not stored.",
    "segline.artifacts.preparation": "It holds what the code of a preparation step decides.",
    "segline.cli": "It only passes on paths and parameters.",
    "segline.config": "Its values reach a stage as parameters, which DVC and the fingerprints compare themselves.",
    "segline.errors": "An error leaves no artifact.",
    "segline.files": "It moves bytes; checksums tell whether they are the right ones.",
    "segline.parallel": "It decides where work runs, and every piece of work has the same bytes everywhere.",
    "segline.progress": "It only displays.",
    "segline.ray_start": "It starts Ray, on which every piece of work has the same bytes.",
    "segline.redaction": "It only hides secrets, on which no result depends.",
    "segline.tracking": "It logs artifacts to MLflow and changes none.",
}
"""The modules and packages that no artifact depends on, each with the reason."""

LEFT_OUT_OF = {
    "candidates": {
        "segline.reporting": "A changed plot does not justify a new training.",
        "segline.training.checkpoints": "It copies files.",
        "segline.training.init_source": "It copies what the trials start from; its hash is part of the fingerprint.",
        "segline.training.leaderboard": "It displays what the trials wrote.",
        "segline.training.lease": "It stops a training without an observer, and a stopped training continues.",
        "segline.training.preflight": "It refuses what cannot be trained, and leaves nothing.",
        "segline.training.search.check": "It chooses what is tried before the first trial.",
        "segline.training.search.plan": "It prints what a training would cost.",
    },
}
"""The modules and packages that a single artifact does not depend on although its stage imports them."""


def code_hash(names: Iterable[str]) -> str:
    """Return the SHA-256 over the source files of modules and packages such as "segline.models"."""
    digest = hashlib.sha256()
    for file in sorted({file for name in names for file in source_files(name)}):
        digest.update(file.relative_to(SOURCE).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def source_files(name: str) -> list[Path]:
    """Return the source files of a module, or all of a package.

    Raises:
        FileNotFoundError: There is no such module.
    """
    base = SOURCE.joinpath(*name.split("."))
    if base.is_dir():
        return sorted(base.rglob("*.py"))
    if not base.with_suffix(".py").is_file():
        raise FileNotFoundError(f"{base}.py")
    return [base.with_suffix(".py")]


def dvc_dependencies(names: Iterable[str]) -> Iterator[str]:
    """Yield the paths below the repository's root that ``dvc.yaml`` lists for these modules and packages."""
    for name in sorted(names):
        base = SOURCE.joinpath(*name.split("."))
        yield f"src/{name.replace('.', '/')}{'' if base.is_dir() else '.py'}"
