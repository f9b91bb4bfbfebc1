"""What is tried before the first trial, so that a model or loss that cannot work is told in seconds."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from segline.artifacts.dataset import DatasetInfo, read_dataset_info
from segline.config.components import ComponentSpec
from segline.config.sections import Train
from segline.data.reading import open_split
from segline.data.split import Split
from segline.errors import SeglineError, TrainingError, clip, one_line
from segline.progress import log
from segline.training import engine
from segline.training.components import make_loss, make_model, preparation_name
from segline.training.determinism import set_deterministic
from segline.training.init_weights import describe_start
from segline.training.run_trial import explaining_memory, make_run
from segline.training.trial import Init, Trial, TrialConfig, TrialInputs

IMAGES = 2
"""The most crops of a pass."""
COMPILERS = ("torch._inductor", "torch._dynamo", "triton")
"""The packages of the compiler, by whose errors it is known that a network could not be compiled."""
INSTEAD_OF_PREPARED = ComponentSpec(name="cross_entropy")
"""The loss of a pass whose own terms are all prepared later."""


def check_components(settings: Train, info: DatasetInfo, inputs: TrialInputs) -> None:
    """Make each model and loss once, as some faults show only then; a loss with a preparation step is made after it.

    Raises:
        TrainingError: All faults, such as an unknown encoder, weights that do not fit, an unknown class name.
    """
    faults = []
    train = open_split(inputs.dataset_dir, "train")
    models = () if inputs.init else settings.models
    checks: list[Callable[[], object]] = [
        partial(make_model, model, info, inputs.encoders) for model in models if _may_fail(model)
    ]
    checks += [partial(_try_loss, terms, info, inputs.prepared_dir, train) for terms in settings.losses]
    for check in checks:
        try:
            check()
        except SeglineError as error:
            faults.append(str(error))
    if faults:
        raise TrainingError("; ".join(faults))


def check_init(configs: Iterable[TrialConfig], info: DatasetInfo, init: Init) -> None:
    """Check that every trial can start from a bundle, and tell in a line for each network what was mapped.

    Raises:
        TrainingError: All faults, such as a network that the bundle does not hold.
    """
    lines, faults = dict[str, None](), dict[str, None]()
    for config in configs:
        try:
            lines[describe_start(config, info, init)] = None
        except SeglineError as error:
            faults[str(error)] = None
    if faults:
        raise TrainingError("; ".join(faults))
    for line in lines:
        log(f"train: {line}")


def try_passes(trials: Iterable[Trial]) -> dict[str, str]:
    """Run one forward and backward pass of each trial at the size of its crops, then a step of validation.

    Returns:
        The reason for each trial that cannot be trained, in one line.
    """
    faults = {}
    for trial in trials:
        try:
            _try_pass(trial)
        except Exception as error:  # models, losses, compilers and drivers raise any type
            faults[trial.name] = describe(error)
    return faults


@contextmanager
def naming_trial(name: str) -> Iterator[None]:
    """Turn any error into one line that names the trial."""
    try:
        yield
    except SeglineError:
        raise
    except Exception as error:  # models, losses, compilers and drivers raise any type
        raise TrainingError(f"{name}: {describe(error)}") from None


def describe(error: BaseException) -> str:
    """Return why a network could not be trained, in one line that says what to change."""
    if isinstance(error, SeglineError):
        return one_line(error)
    shown = f"{type(error).__name__}: {clip(one_line(error))}"
    if any(type(cause).__module__.startswith(COMPILERS) for cause in _causes(error)):
        return f"it cannot be compiled here ({shown}); install a C++ compiler such as g++, or set train.compile: false"
    return (
        f"one pass at the size of the crops, or of the largest validation image, fails ({shown}); change the model, "
        "the loss or label.crop, as some encoders take images of one size only"
    )


def _try_pass(trial: Trial) -> None:
    trial.inputs.origins.fetch()
    if trial.inputs.init:
        trial.inputs.init.fetch(trial.store)
    torch.set_num_threads(trial.config.settings.cpus_per_worker)
    set_deterministic(trial.config.seed)
    info = read_dataset_info(trial.inputs.dataset_dir)
    settings = trial.config.settings
    settings = replace(settings, batch_size=min(IMAGES, settings.batch_size), gradient_accumulation_steps=1)
    terms = tuple(term for term in trial.config.loss if not preparation_name(term)) or (INSTEAD_OF_PREPARED,)
    try:
        with explaining_memory(settings):
            tried = replace(trial, config=replace(trial.config, settings=settings, loss=terms))
            run = make_run(tried, info, may_use_features=False)
            engine.try_step(run)
    finally:
        if settings.compile:
            torch._dynamo.reset()


def _try_loss(terms: tuple[ComponentSpec, ...], info: DatasetInfo, prepared_dir: Path, train: Split) -> None:
    """Make a loss without the terms that need a preparation, and read the distance maps that it needs."""
    loss = make_loss([term for term in terms if not preparation_name(term)], info, prepared_dir)
    train.take_distances(loss.distances, [0])


def _may_fail(model: ComponentSpec) -> bool:
    """Return whether a model depends on more than its options: on weights, or on another library's encoders."""
    return model.name.startswith("smp/") or bool(model.options.get("pretrained"))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
