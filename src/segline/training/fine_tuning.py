"""Fine-tuning: which parts of a network that starts from trained weights go on learning, and how fast.

S0 freezes the first stages of its encoder (4.4.2), S4 fixes all batch normalisation (4.1, "we fix parameters in batch
norm layers").
"""

from collections.abc import Iterable, Iterator

from torch import nn

from segline.config.sections import FineTuning, Train
from segline.errors import TrainingError

ParameterGroups = list[dict[str, object]]
"""The groups of an optimizer: the parameters, their weight decay, and ``factor``, by which the rate is multiplied."""


def freeze(model: nn.Module, settings: FineTuning) -> None:
    """Let the frozen parts of a network have no gradient.

    Raises:
        TrainingError: The network has no encoder with so many stages.
    """
    for part in _fixed_parts(model, settings):
        part.requires_grad_(False)


def train_mode(model: nn.Module, settings: FineTuning) -> None:
    """Set a network to training, all but its frozen parts, which keep their statistics."""
    model.train()
    for part in _fixed_parts(model, settings):
        part.eval()


def parameter_groups(model: nn.Module, settings: Train) -> ParameterGroups:
    """Return the groups of parameters for the optimizer; without fine-tuning one with all of them.

    Raises:
        TrainingError: The encoder has a learning rate of its own, and there is no encoder.
    """
    tuning = settings.fine_tuning
    own_rate = tuning.encoder_learning_rate != 1
    of_encoder = {id(parameter) for parameter in encoder(model).parameters()} if own_rate else set()
    undecayed = _undecayed(model) if tuning.decay == "weights" else set()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        groups.setdefault((id(parameter) in of_encoder, id(parameter) in undecayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_undecayed else settings.weight_decay,
            "factor": tuning.encoder_learning_rate if is_of_encoder else 1.0,
        }
        for (is_of_encoder, is_undecayed), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]


def encoder(model: nn.Module) -> nn.Module:
    """Return the encoder of a network.

    Raises:
        TrainingError: It has none.
    """
    found = next((name for name, _ in model.named_modules() if name.rpartition(".")[2] == "encoder"), "")
    if found:
        return model.get_submodule(found)
    raise TrainingError("train.fine_tuning: this architecture has no encoder; leave out what concerns one")


def _fixed_parts(model: nn.Module, settings: FineTuning) -> Iterator[nn.Module]:
    if settings.frozen_stages:
        yield from _first_stages(encoder(model), settings.frozen_stages)
    if settings.batch_norm == "fixed":
        yield from (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))


def _first_stages(network: nn.Module, count: int) -> Iterable[nn.Module]:
    """Return the layers of an encoder of timm up to the one that gives its feature of this number, counted from 1."""
    for part in network.modules():
        info = getattr(part, "feature_info", None)
        if info is None:
            continue
        ends = [name.replace(".", "_") for name in info.module_name()]
        layers = dict(_layers(part))
        if count <= len(ends) and ends[count - 1] in layers:
            last = list(layers).index(ends[count - 1])
            return list(layers.values())[: last + 1]
    raise TrainingError(
        f"train.fine_tuning.frozen_stages: got {count}, but the encoder has no {count} stages that are known; take "
        "fewer, or an encoder of timm (tu-<name> for smp/...)"
    )


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers in their order, those of a sequence one by one, under names as timm flattens them."""
    for name, layer in network.named_children():
        if isinstance(layer, nn.Sequential) and name == "blocks":
            yield from ((f"{name}_{number}", part) for number, part in layer.named_children())
        else:
            yield name, layer


def _undecayed(model: nn.Module) -> set[int]:
    """Return the parameters of normalisation, and biases, which lie in one dimension."""
    return {id(parameter) for parameter in model.parameters() if parameter.ndim <= 1}
