"""The batch whose loss or logits are not finite, which is kept for a look at it."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from segline.data.split import Split
from segline.files.atomic import write_file

BROKEN_BATCH = "broken-batch.npz"
ADVICE = "lower train.learning_rate or set train.max_grad_norm"


def keep_batch(
    folder: Path,
    split: Split,
    positions: NDArray[np.integer],
    images: Float[Tensor, "b 3 h w"],
    labels: UInt8[Tensor, "b h w"],
) -> Path:
    """Write ``broken-batch.npz`` into a trial's folder, and return its path.

    It has the ``positions`` (b) of the crops in their split, the ``keys`` (b) of their images, the ``images``
    (b, h, w, 3) from 0 to 1 and the ``labels`` (b, h, w), as the network and the loss met them.
    """
    content = {
        "positions": np.asarray(positions),
        "keys": np.array(split.keys(positions)),
        "images": images.permute(0, 2, 3, 1).cpu().numpy(),
        "labels": labels.cpu().numpy(),
    }

    def save(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **content)

    write_file(folder / BROKEN_BATCH, save)
    return folder / BROKEN_BATCH
