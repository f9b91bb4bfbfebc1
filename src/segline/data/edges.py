"""Semantic edges of label maps: the targets of SEMEDA (Chen, Dapogny and Cord, section 3.3)."""

import numpy as np
from numpy.typing import NDArray

from segline.classes import IGNORED

NETWORK = "network/weights.safetensors"
"""Where in its folder the stage edges leaves the network that tells these edges."""
# Pixels and their neighbours to the right, below, and below to either side; what one is to the other holds both ways.
NEIGHBOURS = (
    (np.s_[..., :, :-1], np.s_[..., :, 1:]),
    (np.s_[..., :-1, :], np.s_[..., 1:, :]),
    (np.s_[..., :-1, :-1], np.s_[..., 1:, 1:]),
    (np.s_[..., :-1, 1:], np.s_[..., 1:, :-1]),
)


def edge_map(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where one of a pixel's 8 neighbours is of another class than the pixel.

    The paper does not say what neighbours outside the image are: here they are as the pixel is, so that an image's
    border is no edge. Ignored pixels are no edges and make none, as what lies there is not known.

    Args:
        labels: class ids, 255 = ignored, shape (..., h, w).
    """
    edges = np.zeros(labels.shape, np.bool_)
    known = labels != IGNORED
    for here, there in NEIGHBOURS:
        differ = (labels[here] != labels[there]) & known[here] & known[there]
        edges[here] |= differ
        edges[there] |= differ
    return edges
