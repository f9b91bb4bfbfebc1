"""The names ``smp/...``: every architecture of segmentation_models_pytorch, with any of its encoders.

What differs from calling the library: images of any size, batches of one image in training, and encoder weights from
a file as well. Encoders are those of its list, and ``tu-<name>`` for those of timm.
"""

from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor, nn

from segline.errors import TrainingError
from segline.fields import Pretrained, suggestion
from segline.models.blocks import BatchNorm, on_padded
from segline.models.encoders import read_weights

STRIDES = {"pan": 64}
"""What sides are padded to multiples of, where it is not 32: the smallest maps of PAN are pooled three times more."""
OPTIONS: dict[str, dict[str, Any]] = {"dpt": {"dynamic_img_size": True}}


class Smp(nn.Module):
    """An architecture of segmentation_models_pytorch: images (b, 3, h, w) to logits (b, classes, h, w).

    Raises:
        TrainingError: the library has no such encoder, the encoder does not fit the architecture, or its weights
            cannot be had.
    """

    def __init__(
        self,
        architecture: str,
        classes: int,
        *,
        encoder: Annotated[str, "of segmentation_models_pytorch, or tu-<name> for one of timm"] = "resnet34",
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        self.stride = STRIDES.get(architecture, 32)
        self.network = _create(architecture, encoder, classes, hub=pretrained is True)
        if isinstance(pretrained, str):
            own = self.network.encoder
            own.load_state_dict(read_weights(pretrained, own.state_dict(), encoder), strict=False)
        _allow_single_values(self.network)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        return on_padded(self.network, images, self.stride)


def _create(architecture: str, encoder: str, classes: int, *, hub: bool) -> Any:
    import segmentation_models_pytorch as smp  # takes seconds, which only who asks for it pays

    known = smp.encoders.get_encoder_names()
    if encoder not in known and not encoder.startswith("tu-"):
        near = suggestion(encoder, known)
        raise TrainingError(f"smp/{architecture}.encoder: unknown encoder {encoder!r}{near}")
    weights = "imagenet" if hub else None
    more = OPTIONS.get(architecture, {})
    try:
        return smp.create_model(architecture, encoder, encoder_weights=weights, classes=classes, **more)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"smp/{architecture} cannot be made with the encoder {encoder} ({reason})") from None


def _allow_single_values(network: nn.Module) -> None:
    """Pooled features of one image have a single value per channel, at which plain batch normalisation stops."""
    plain = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if type(child) is nn.BatchNorm2d
    ]
    for parent, name, child in plain:
        normalisation = BatchNorm(child.num_features, child.eps, child.momentum)
        normalisation.load_state_dict(child.state_dict())
        setattr(parent, name, normalisation)
