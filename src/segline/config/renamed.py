"""The keys and command-line words of version 0.1 that have another name since 0.2."""

from collections.abc import Sequence

SINCE = "0.2"
SPACES = "train.search.spaces"
KEYS = {
    "validate.min_blur": "min_sharpness",
    "validate.severity.blur": "sharpness",
    "validate.severity.unlabelled": "empty_label",
    "train.accumulate": "gradient_accumulation_steps",
    "train.augment.colour": "brightness_contrast",
    "train.augment.shift": "translate",
    "train.clip": "max_grad_norm",
    "train.ema": "ema_decay",
    "train.patience": "early_stopping_patience",
    "train.search.at_once": "trials_per_round",
    "train.search.reduction": "reduction_factor",
    "train.search.samples": "num_samples",
    "train.warmup": "warmup_fraction",
    # The names of hyperparameters to draw.
    f"{SPACES}.accumulate": "gradient_accumulation_steps",
    f"{SPACES}.augment.colour": "augment.brightness_contrast",
    f"{SPACES}.augment.shift": "augment.translate",
    f"{SPACES}.clip": "max_grad_norm",
    f"{SPACES}.ema": "ema_decay",
    f"{SPACES}.warmup": "warmup_fraction",
}
"""Dotted key -> the new name of its last part."""

SPLIT_KEY = "train.search.min_epochs"
"""The key whose meaning depended on the scheduler: it is one of the next two now."""
GRACE_PERIOD = "grace_period"
PERTURBATION_INTERVAL = "perturbation_interval"

REMOVED = {"promote.resamples": "the interval of the gain draws no samples any more"}
"""Dotted key that is gone -> why."""

EDGES = "edges"
"""The section that became options of the loss semeda."""
EDGE_LOSS = "semeda"
EDGE_OPTIONS = {
    "steps": "edge_steps",
    "batch_size": "edge_batch_size",
    "learning_rate": "edge_learning_rate",
    "min_accuracy": "edge_min_accuracy",
}
"""Key of the section -> option of the loss."""

ARGUMENTS = {
    "--ingested": "--manifest",
    "--validated": "--validation",
    "--labelled": "--dataset",
    "--trained": "--candidates",
    "--evaluated": "--evaluation",
    "--ensembled": "--ensemble",
    "--promoted": "--promotion",
}


def new_key_hint(key: str) -> str:
    """Return ``; did you mean ...?`` for a dotted key of 0.1, and an empty text for any other one."""
    if key == SPLIT_KEY:
        names = f"{GRACE_PERIOD!r} (for halving and asha) or {PERTURBATION_INTERVAL!r} (for pbt), its names"
    elif key == EDGES:
        names = f"the options {', '.join(EDGE_OPTIONS.values())} of the loss {EDGE_LOSS}, its place"
    elif key in KEYS:
        names = f"{KEYS[key]!r}, its name"
    elif key in REMOVED:
        return f"; it is gone since {SINCE}, as {REMOVED[key]}; `segline migrate` removes it"
    else:
        return ""
    return f"; did you mean {names} since {SINCE}? `segline migrate` rewrites the file"


def argument_error(words: Sequence[str]) -> str | None:
    """Return one line about the first word of 0.1 on a command line, or None when there is none."""
    if words and words[0] == EDGES:
        return f"segline {EDGES}: unknown command; since {SINCE}, train prepares the edge network itself"
    for word in words:
        name = word.partition("=")[0]
        if name in ARGUMENTS:
            return (
                f"segline {words[0]}: unknown argument {name}; did you mean {ARGUMENTS[name]}, its name since {SINCE}?"
            )
        if name == "--edged":
            return f"segline {words[0]}: unknown argument {name}; leave it out, train prepares the edge network itself"
    return None
