"""The origin of a result: keys, the code's version, and the environment. Nothing here needs MLflow."""

import hashlib
import os
import re
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import Distribution, distributions

from segline.progress import log
from segline.tracking.tags import GIT_COMMIT, GIT_DIRTY, PIPELINE_RUN

GIT_TIMEOUT_S = 10


def key(*parts: object) -> str:
    """Return the hash of everything that a record depends on, which identifies it."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def code_version() -> dict[str, str]:
    """Return the commit, and whether the working tree differs from it, as tags.

    Outside a git repository the commit is that of ``SEGLINE_COMMIT``, which the images set; without it there are no
    tags, and a line says so.
    """
    commit = _git("rev-parse", "HEAD")
    if not commit:
        built_from = os.environ.get("SEGLINE_COMMIT", "")
        if built_from:
            return {GIT_COMMIT: built_from}
        log("provenance: git knows no commit here, so MLflow records none; set SEGLINE_COMMIT to record one")
        return {}
    changes = _git("status", "--porcelain")
    dirty = {} if changes is None else {GIT_DIRTY: "true" if changes else "false"}
    return {GIT_COMMIT: commit, **dirty}


def _git(*words: str) -> str | None:
    """Return the output of git; None if there is no git, no repository, or no answer in time."""
    command = ["git", "--no-optional-locks", *words]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def pipeline_run() -> dict[str, str]:
    """Return the Kubeflow run that this process is part of, as a tag; nothing outside Kubeflow."""
    run = os.environ.get("SEGLINE_RUN", "")
    return {PIPELINE_RUN: run} if run else {}


@cache
def environment_hash() -> str:
    """Return the SHA-256 of every installed distribution with its version, in hex."""
    lines = sorted({_pin(distribution) for distribution in distributions()} - {""})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _pin(distribution: Distribution) -> str:
    """Return a distribution as ``name==version``; an empty string for the remains of an uninstalled one."""
    with suppress(Exception):  # the type of error depends on who finds distributions: Python or its backport
        facts = distribution.metadata
        if facts["Name"] and facts["Version"]:
            return f"{re.sub(r'[-_.]+', '-', facts['Name']).lower()}=={facts['Version']}"
    return ""
