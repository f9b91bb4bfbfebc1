"""Networks with reproducible weights, and the logits that version 0.1.0 computed with them.

Each file in ``tests/golden/bundles`` holds the ``model.json`` that 0.1.0 wrote and a few logits. No weights are stored:
:func:`fill` draws them from the names and shapes of the tensors. The files were written by :func:`record` with the
code of 0.1.0.
"""

import json
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden" / "bundles"
SIZE = (61, 85)
PLACES = ((0, 0), (17, 5), (30, 40), (33, 71), (59, 12), (60, 84))


def draw(name, shape):
    """Return values in 0 to 1 of NumPy's frozen generator, seeded by a name."""
    return torch.from_numpy(np.random.RandomState(crc32(name.encode())).random_sample(tuple(shape)).astype(np.float32))


def fill(network):
    """Give every tensor of the state dict values that depend on its name and shape alone."""
    state = network.state_dict()
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        drawn = draw(name, value.shape)
        if value.ndim > 1:
            value.copy_((2 * drawn - 1) * (6 / value[0].numel()) ** 0.5)
        else:
            value.copy_(0.75 + drawn / 2 if name.endswith(("weight", "running_var")) else drawn / 5 - 0.1)
    return network.eval()


@torch.inference_mode()
def sample(network):
    """Return the logits at a few places, as (places, classes), and the deviation of all logits."""
    logits = network(4 * draw("image", (1, 3, *SIZE)) - 2)[0]
    return [[float(value) for value in logits[:, row, column]] for row, column in PLACES], float(logits.std())


def record(description, network, path):
    """Write a file: the content of ``model.json``, and the logits of its only member's network."""
    values, deviation = sample(fill(network))
    rounded = [[float(f"{value:.7g}") for value in place] for place in values]
    content = {"description": description, "logits": rounded, "deviation": float(f"{deviation:.7g}")}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
