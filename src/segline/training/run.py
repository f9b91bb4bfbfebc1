"""The state of a training: the model with all that its next step depends on, and the results of its epochs."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from segline.config.sections import Train
from segline.data.augment import normalize, to_device, to_unit
from segline.data.split import Split
from segline.losses import WeightedSum
from segline.training import ddp
from segline.training.fine_tuning import freeze, parameter_groups
from segline.training.order import EpochOrder

Items = NDArray[np.uint8] | NDArray[np.float16]
"""Images (b, h, w, 3) of 0 to 255, or features (b, h, w, channels)."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The results of an epoch; the losses are means over images, the learning rate is that of the last step."""

    epoch: int
    learning_rate: float
    train_loss: float
    val_loss: float
    val_miou: float
    val_pixel_accuracy: float


@dataclass
class EpochState:
    """The position of a run in its epoch, the sum of its losses there, and the seconds it has trained in all."""

    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0


@dataclass(kw_only=True)
class Run:
    """A model in training with everything that its next step depends on."""

    model: nn.Module
    loss: WeightedSum
    train: Split
    val: Split
    classes: int
    settings: Train
    seed: int
    device: torch.device
    stop: Callable[[], bool] = lambda: False
    """A function that is called after every step; when it returns true, the run saves itself and ends."""
    needs_checkpoint: bool = False
    """Whether the run cannot start anew, as it goes on with another training."""
    on_features: bool = False
    """Whether the splits hold the features of a frozen encoder, on which the ``head`` of the model alone is trained."""
    note: str = ""
    """What was done about a damaged checkpoint, in a line."""

    def __post_init__(self) -> None:
        settings = self.settings
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.model = ddp.convert_sync_batchnorm(self.model, self.device)
        self.loss.to(self.device)
        freeze(self.model, settings.fine_tuning)
        self.order = EpochOrder(self.train, settings.repeat_threshold, self.seed)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, settings), eps=settings.epsilon, fused=True)
        self.ema_model = copy.deepcopy(self.model) if settings.ema_decay else self.model
        network = ddp.wrap_ddp(self.reached(self.model), self.device)
        self.network = cast(nn.Module, torch.compile(network)) if settings.compile else network
        self.history: list[Epoch] = []
        self.epoch_state = EpochState()
        self.bf16 = runs_in_bf16(settings.precision, self.device)

    def reached(self, model: nn.Module) -> nn.Module:
        """Return the part of a model that the splits' items go through: the whole, or its head."""
        return model.get_submodule("head") if self.on_features else model

    def to_input(self, images: Items, device: torch.device) -> Float[Tensor, "b c h w"]:
        """Return images of a split (b, h, w, 3) as floats of 0 to 1, or features (b, h, w, c) as they are."""
        if self.on_features:
            return to_device(torch.from_numpy(images), device).permute(0, 3, 1, 2).float()
        return to_unit(images.astype(np.uint8, copy=False), device)

    @property
    def images_per_step(self) -> int:
        """The number of images in a step of the optimizer."""
        return self.settings.batch_size * self.settings.gradient_accumulation_steps

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps in an epoch; the last batch may be smaller."""
        return -(-len(self.order) // self.images_per_step)

    @property
    def steps(self) -> int:
        """The number of steps of the whole training, unless time or patience end it before."""
        whole = self.settings.epochs * self.steps_per_epoch
        return min(whole, self.settings.max_steps or whole)

    @property
    def time_fraction(self) -> float:
        """The fraction of the allowed time that has passed."""
        return self.epoch_state.seconds / 60 / self.settings.max_minutes if self.settings.max_minutes else 0.0


def runs_in_bf16(precision: str, device: torch.device) -> bool:
    """Return whether ``train.precision`` means bf16 on a device."""
    return computes_bf16(device) if precision == "auto" else precision == "bf16"


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bf16; without them it is many times slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def forward(
    run: Run, network: Callable[[Tensor], Tensor], images: Float[Tensor, "b c h w"]
) -> Float[Tensor, "n k h w"]:
    """Return the logits of a network for images of 0 to 1, or for features, in single precision."""
    inputs = images if run.on_features else normalize(images)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bf16):
        logits = network(inputs.contiguous(memory_format=torch.channels_last))
    return logits.float()


def take_distances(run: Run, split: Split, positions: Sequence[int] | NDArray[np.integer]) -> dict[str, Tensor]:
    """Return the distance maps that the loss needs, on the training device."""
    maps = split.take_distances(run.loss.distances, positions)
    return {name: to_device(torch.from_numpy(values), run.device) for name, values in maps.items()}


def derive_seed(*numbers: int) -> int:
    """Derive a seed from numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def total_loss(run: Run) -> float:
    """Return the sum over the images of the epoch so far, in all processes."""
    return float(ddp.all_reduce_sum(torch.tensor(run.epoch_state.loss, dtype=torch.float64, device=run.device)))
