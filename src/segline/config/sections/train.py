"""The section ``train``: the grid of architectures x losses, and how each trial of it is trained."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_type_hints

from segline.config import tables
from segline.config.components import LOSS, MODEL, ComponentSpec
from segline.config.fields import SHIPPED_WORD, Fraction, Pattern, Range, Size, Unit
from segline.config.sections.search import Search

# The fields of Train that a search may draw, beside those of Augment and the options of models and losses.
TUNABLE = (
    "batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "warmup_fraction",
    "weight_decay",
    "epsilon",
    "max_grad_norm",
    "ema_decay",
)
REGISTERED = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/([0-9]+))")
"""The address of a registered model: its name, then an alias or the number of a version."""
# Population-based training replaces the worst quarter, which is one trial of these.
SMALLEST_POPULATION = 4


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What goes on learning in a network that starts from trained weights, and how fast."""

    frozen_stages: Annotated[
        int, Range(0, 8), "the number of the encoder's first stages that are not trained and keep their statistics"
    ] = 0
    batch_norm: Annotated[
        Literal["trained", "fixed"], "fixed: all batch normalisation keeps its statistics and parameters, as in S4"
    ] = "trained"
    encoder_learning_rate: Annotated[
        float, Range(0, 10), "the factor by which the encoder's learning rate differs from that of the rest"
    ] = 1.0
    decay: Annotated[
        Literal["all", "weights"], "what weight decay applies to: all parameters, or none of norms and biases"
    ] = "all"


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The random changes of a training batch."""

    crop: Annotated[
        Size,
        Range(0, 4096),
        Unit("px"),
        "the side, or the height and width, of the random window of a stored crop that training sees, another one in "
        "each step; 0: all of a side",
    ] = 0
    flip: Annotated[float, Fraction, "the probability of a horizontal flip"] = 0.5
    flip_vertical: Annotated[float, Fraction, "the probability of a vertical flip, for medical and aerial images"] = 0.0
    scale: Annotated[float, Range(0, 0.9), "the largest relative zoom, in or out"] = 0.1
    translate: Annotated[float, Fraction, "the largest translation, as a share of the side"] = 0.05
    rotate: Annotated[float, Range(0, 180), Unit("degrees"), "the largest rotation"] = 2.0
    elastic: Annotated[
        float,
        Range(0, 1000),
        Unit("px"),
        "the standard deviation of the displacements of a 3 x 3 grid of control points that deforms a crop",
    ] = 0.0
    brightness_contrast: Annotated[float, Fraction, "the largest relative change of brightness and of contrast"] = 0.1
    saturation: Annotated[float, Fraction, "the largest relative change of saturation"] = 0.0
    hue: Annotated[float, Range(0, 0.5), "the largest change of hue, as a share of the full circle"] = 0.0


@dataclass(frozen=True, kw_only=True)
class Train:
    """The grid, the search in it, and the training of a trial."""

    models: Annotated[tuple[ComponentSpec, ...], MODEL, "the architectures of the grid"] = (
        ComponentSpec(name="unet", options={"encoder": "tf_efficientnet_lite0", "pretrained": SHIPPED_WORD}),
        ComponentSpec(name="pixel_mlp", options={"pretrained": SHIPPED_WORD, "max_gb": 0.5}),
    )
    losses: Annotated[
        tuple[tuple[ComponentSpec, ...], ...],
        LOSS,
        "the losses of the grid; an entry with several losses is their sum, each times its weight",
    ] = (
        (ComponentSpec(name="cross_entropy", options={"balance": "root_inverse"}), ComponentSpec(name="dice")),
        (ComponentSpec(name="cross_entropy"), ComponentSpec(name="lovasz_softmax")),
    )
    search: Search = field(default_factory=Search)
    epochs: Annotated[int, Range(1, 100_000), "the number of passes over the training split"] = 8
    max_steps: Annotated[
        int, Range(0), "the number of steps after which a trial ends before its last epoch; 0: no limit"
    ] = 0
    max_minutes: Annotated[
        float,
        Range(0),
        Unit("min"),
        "the training time, without validation, after which a trial ends; such a run cannot be repeated bit by bit; "
        "0: no limit",
    ] = 0.0
    early_stopping_patience: Annotated[
        int, Range(0), "the epochs without a better validation mIoU after which a trial ends; 0: no limit"
    ] = 0
    validate_on: Annotated[
        Literal["frames", "crops"],
        "what each epoch is validated on: whole frames, or crops that label cuts as those of training, which is faster",
    ] = "frames"
    batch_size: Annotated[int, Range(1, 4096), "the number of images in a forward pass, over all workers"] = 8
    gradient_accumulation_steps: Annotated[
        int, Range(1, 1024), "the number of forward passes in a step of the optimizer"
    ] = 1
    learning_rate: Annotated[float, Range(1e-8, 10), "the highest learning rate of the schedule"] = 2e-3
    schedule: Annotated[Literal["cosine", "poly", "constant"], "the course of the learning rate after the warm-up"] = (
        "cosine"
    )
    warmup_fraction: Annotated[float, Fraction, "the share of the steps in which the learning rate rises"] = 0.1
    weight_decay: Annotated[float, Range(0, 1), "the weight decay of AdamW"] = 1e-2
    epsilon: Annotated[float, Range(1e-12, 1), "the epsilon of AdamW"] = 1e-8
    max_grad_norm: Annotated[float, Range(0), "the norm to which the gradient is clipped; 0: no clipping"] = 0.0
    ema_decay: Annotated[
        float,
        Range(0, 0.99999),
        "the decay of the exponential moving average of the weights, which is then evaluated and saved; 0: none",
    ] = 0.0
    precision: Annotated[
        Literal["auto", "bf16", "fp32"],
        "the precision of the forward pass; auto: bf16 where the device computes in it, else fp32",
    ] = "auto"
    repeat_threshold: Annotated[
        float,
        Fraction,
        "the share of the training crops below which the crops of a class are repeated in an epoch, the more often the "
        "rarer it is; 0: none",
    ] = 0.0
    compile: Annotated[bool, "whether the network is compiled, which pays in long runs on a GPU"] = False
    augment: Augment = field(default_factory=Augment)
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    init: Annotated[
        str,
        Pattern(
            f"|{REGISTERED.pattern}|(?!models:).+",
            "models:/NAME@ALIAS, models:/NAME/VERSION, a folder or s3://bucket/prefix",
        ),
        "the model whose weights the trials start from, with the classes mapped by name: models:/NAME@ALIAS, "
        "models:/NAME/VERSION, the folder of a candidate or bundle, or s3://bucket/prefix; empty: none",
    ] = ""
    resume: Annotated[
        bool,
        "whether trials go on with the finished trainings in init, from their last epoch, with optimizer, averaged "
        "weights and history; these were trained with keep_checkpoints",
    ] = False
    keep_checkpoints: Annotated[
        bool, "whether candidates keep their last checkpoint, so that resume can go on with them for more epochs"
    ] = False
    checkpoint_minutes: Annotated[float, Range(0), Unit("min"), "the longest training time between two checkpoints"] = (
        10.0
    )
    checkpoints: Annotated[
        str,
        Pattern("|s3://[^/]+(/.*)?", "s3://bucket/prefix, or nothing"),
        "the bucket and prefix, s3://bucket/prefix, to which the checkpoints are copied; empty: none",
    ] = ""
    workers_per_trial: Annotated[
        int, Range(1, 1024), "the number of processes of a trial; several share each batch"
    ] = 1
    cpus_per_worker: Annotated[int, Range(1, 1024), "the number of CPU cores of a worker"] = 1
    gpus_per_worker: Annotated[float, Range(0, 64), "the number of GPUs of a worker"] = 0.0

    def errors(self) -> Iterator[str]:
        """Yield what is wrong between fields that are each right by themselves."""
        cells = [(str(model), str(loss)) for model in self.models for loss in self.losses]
        if len(set(cells)) < len(cells):
            yield "train: the same model with the same loss is listed twice; remove one"
        for index, model in enumerate(self.models):
            options = model.options
            is_random = not options.get("pretrained") and not self.init
            if model.name == "unet_resnet50" and is_random and not options.get("modified"):
                yield (
                    f"train.models[{index}].unet_resnet50.pretrained: got false, which freezes three stages at random "
                    "weights; expected weights, or modified: true"
                )
            if model.name == "pixel_mlp" and is_random:
                yield (
                    f"train.models[{index}].pixel_mlp.pretrained: got false, which freezes the encoder at random "
                    "weights; expected shipped, true or a file"
                )
            own = [key for key in ("width", "depth") if key in options]
            if model.name == "unet" and options.get("encoder") and own:
                yield (
                    f"train.models[{index}].unet.{own[0]}: has no effect with the encoder {options['encoder']}, "
                    "which has channels of its own; leave it out"
                )
        yield from self._resume_errors() if self.resume else ()
        if any(map(keeps_features, self.models)):
            yield from self._neighbor_errors()
            if self.init:
                yield (
                    f"train.init: got {self.init!r}, expected none with pixel_mlp, which keeps the features of its own "
                    "encoder; train it by itself, or set pixel_mlp.max_gb: 0, which is slow"
                )
        yield from self._population_errors() if self.search.scheduler == "pbt" else self._optuna_errors()

    def _resume_errors(self) -> Iterator[str]:
        """Yield what is impossible where trials go on with finished trainings."""
        if not self.init or REGISTERED.fullmatch(self.init):
            yield (
                f"train.init: got {self.init!r}, expected for resume a folder of candidates that were trained with "
                "train.keep_checkpoints, as the registry holds no checkpoints"
            )
        if self.search.finalists or self.search.searcher != "random":
            yield (
                "train.resume: got true, expected false with search.finalists or search.searcher: optuna, whose trials "
                "are not known before the training"
            )

    def _neighbor_errors(self) -> Iterator[str]:
        """Yield the losses that cannot be trained on the features of single pixels, which a model keeps."""
        known = LOSS.options()
        for index, terms in enumerate(self.losses):
            for term in terms:
                if term.name in known and tables.needs_neighbors(term.name):
                    yield (
                        f"train.losses[{index}].{term.name}: needs whole images, but pixel_mlp keeps the features of "
                        "single pixels; train it without pixel_mlp, or set pixel_mlp.max_gb: 0, which is slow"
                    )

    def _optuna_errors(self) -> Iterator[str]:
        search = self.search
        if search.searcher == "optuna" and search.num_samples <= search.trials_per_round:
            yield (
                f"train.search.num_samples: got {search.num_samples}, expected more than the "
                f"{search.trials_per_round} of train.search.trials_per_round, after which Optuna goes by the results"
            )

    def _population_errors(self) -> Iterator[str]:
        """Yield what is impossible where a trial goes on with the weights of another."""
        search, where = self.search, "train.search"
        models = {model.name for model in self.models}
        for key in search.spaces:
            if key.rpartition(".")[0] in models:
                yield (
                    f"{where}.spaces.{key}: pbt cannot change an architecture during training; remove the key, or "
                    "use another scheduler"
                )
        if not search.spaces or search.num_samples < SMALLEST_POPULATION:
            yield (
                f"{where}.num_samples: got {search.num_samples} trials with {len(search.spaces)} spaces, expected at "
                f"least {SMALLEST_POPULATION} trials and one space for pbt"
            )
        if search.searcher != "random":
            yield f"{where}.searcher: got {search.searcher!r}, expected random, because pbt itself goes by the results"
        if search.finalists:
            yield (
                f"{where}.finalists: got {search.finalists}, expected 0, because the hyperparameters of pbt change "
                "during training and cannot be trained again"
            )
        for name in ("max_steps", "max_minutes", "early_stopping_patience"):
            if value := getattr(self, name):
                yield f"train.{name}: got {value}, expected 0, because pbt trains all trials to the same epoch"


def keeps_features(model: ComponentSpec) -> bool:
    """Return whether the trials of a model are trained on the features of single pixels, which train keeps."""
    size: float = ({**tables.defaults("models").get(model.name, {}), **model.options}).get("max_gb", 0)
    return size > 0


def hyperparameters() -> dict[str, Any]:
    """Return the annotation of all that can be drawn: ``learning_rate``, ``augment.flip``, ``unet.width`` and so on."""
    hints = get_type_hints(Train, include_extras=True)
    groups = {"augment": get_type_hints(Augment, include_extras=True), **MODEL.options(), **LOSS.options()}
    dotted = {f"{group}.{name}": annotation for group, known in groups.items() for name, annotation in known.items()}
    return {name: hints[name] for name in TUNABLE} | dotted
