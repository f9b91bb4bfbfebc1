"""A network that stacks the logits of several heads along the batch: each head has a loss of its own."""

import numpy as np
import pytest
import torch
from shard_files import write_split

from segline.config.sections import Augment, Train
from segline.data.reading import open_split
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.models.pixel_mlp import PixelHead
from segline.training.engine import fit
from segline.training.run import Run

STILL = Augment(flip=0.0, scale=0.0, translate=0.0, rotate=0.0, brightness_contrast=0.0)
SETTINGS = Train(epochs=2, batch_size=2, learning_rate=1e-2, precision="fp32", augment=STILL)


def make_run(split, head, loss="cross_entropy"):
    return Run(
        model=head,
        loss=WeightedSum([(1.0, LOSSES[loss](Task(names=("a", "b"))))]),
        train=split,
        val=split,
        classes=2,
        settings=SETTINGS,
        seed=1,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "dice"])
def test_each_head_is_trained_as_if_it_were_alone(tmp_path, loss):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    write_split(tmp_path / "split", images, (images[..., 0] > 127).astype(np.uint8))
    split = open_split(tmp_path, "split")
    torch.manual_seed(0)
    head = PixelHead(3, 2, layers=2, hidden=4, heads=3, vote="mean")
    alone = []
    for perceptron in head.perceptrons:
        single = PixelHead(3, 2, layers=2, hidden=4, heads=1, vote="mean")
        single.perceptrons[0].load_state_dict(perceptron.state_dict())
        alone.append(single)
    together = list(fit(make_run(split, head, loss), tmp_path / "together"))
    apart = [list(fit(make_run(split, single, loss), tmp_path / f"{n}")) for n, single in enumerate(alone)]
    for perceptron, single in zip(head.perceptrons, alone, strict=True):
        for name, value in single.perceptrons[0].state_dict().items():
            torch.testing.assert_close(perceptron.state_dict()[name], value)
    for epoch, records in zip(together, zip(*apart, strict=True), strict=True):
        assert epoch.train_loss == pytest.approx(np.mean([record.train_loss for record in records]), rel=1e-5)
