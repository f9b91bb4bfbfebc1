"""A step of several passes, or of several workers, has the gradient of one large batch, by a plain autograd of it."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from shard_files import write_split
from torch import nn

from segline.classes import IGNORED
from segline.config.sections import Augment, Train
from segline.data.augment import MEAN, STD
from segline.data.distances import DISTANCES, Truth
from segline.data.shards import Crops
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.training.run import Run
from segline.training.step import load, train_step

CLASSES, SIDE = 3, 16
LABELLED = (8, 8, 256, 256)
STILL = Augment(flip=0.0, scale=0.0, translate=0.0, rotate=0.0, brightness_contrast=0.0)
TASK = Task(names=("sky", "road", "car"), background=0)
MEANS = {
    "boundary": {},
    "bounding_box": {},
    "class_weight_schedule": {},
    "cross_entropy": {"class_weights": {"sky": 0.1, "car": 3.0}},
    "distance_map": {},
    "focal": {},
    "sobel": {},
    "touching_border": {},
}
"""The losses that are means over pixels, with options; the classes of the images differ in number."""
SUM = [(1.0, "cross_entropy", {}), (0.5, "class_weight_schedule", {}), (2.0, "cross_entropy", MEANS["cross_entropy"])]
CASES = {name: [(1.0, name, options)] for name, options in MEANS.items()} | {
    "plain_cross_entropy": [(1.0, "cross_entropy", {})],
    "sum": SUM,
    "lovasz_per_image": [(1.0, "lovasz_softmax", {"per_image": True})],
}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Four images with few and many labelled pixels."""
    folder, generator = tmp_path_factory.mktemp("data") / "train", np.random.default_rng(4)
    images = generator.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    labels = generator.choice(CLASSES, (4, SIDE, SIDE), p=(0.7, 0.2, 0.1)).astype(np.uint8)
    for label, pixels in zip(labels, LABELLED, strict=True):
        label.reshape(-1)[generator.permutation(SIDE * SIDE)[pixels:]] = IGNORED
    maps = {
        name: np.stack([measure(Truth(label, label, CLASSES, None)) for label in labels])
        for name, measure in DISTANCES.items()
    }
    write_split(folder, images, labels, distances=maps)
    return Crops(folder)


def loss_of(case):
    return WeightedSum([(weight, LOSSES[name](TASK, **options)) for weight, name, options in CASES[case]])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, CLASSES, 1))


def gradient(model):
    return torch.cat([parameter.grad.double().ravel() for parameter in model.parameters()])


def of_the_whole_batch(split, loss, order):
    """The loss and the gradient of all four images at once, by autograd alone."""
    images, labels = split.take(order)
    maps = {name: torch.from_numpy(values) for name, values in split.take_distances(loss.distances, order).items()}
    inputs = torch.from_numpy(((images / 255 - MEAN) / STD).astype(np.float32)).permute(0, 3, 1, 2)
    model = network()
    value = loss(model(inputs), torch.from_numpy(labels), maps)
    value.backward()
    return float(value.detach()), gradient(model)


def of_a_step(split, loss, order, batch_size):
    """The loss and the gradient of a step of the engine, as this process has them."""
    settings = Train(
        batch_size=batch_size,
        gradient_accumulation_steps=4 // batch_size,
        precision="fp32",
        augment=STILL,
        max_grad_norm=0.0,
    )
    run = Run(
        model=network(),
        loss=loss,
        train=split,
        val=split,
        classes=CLASSES,
        settings=settings,
        seed=1,
        device=torch.device("cpu"),
    )
    gradients = []
    run.optimizer.register_step_pre_hook(lambda *_: gradients.append(gradient(run.model)))
    parts = train_step(run, load(run, np.array(order), 0), 0)
    return float(sum(parts)), gradients[0]


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (3, 0, 1, 2)])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_accumulated_passes_have_the_gradient_of_the_whole_batch(split, case, batch_size, order):
    expected, expected_gradient = of_the_whole_batch(split, loss_of(case), order)
    value, found = of_a_step(split, loss_of(case), order, batch_size)
    assert value == pytest.approx(expected, rel=1e-6)
    assert relative(found, expected_gradient) < 1e-6


def work(rank, folder, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    split, found = Crops(folder), {}
    for case in CASES:
        for batch_size in (1, 2, 4):
            # The first process gets the images with few labels when a batch has all of them.
            value, slopes = of_a_step(split, loss_of(case), (0, 2, 1, 3), batch_size)
            total = torch.tensor(value)
            dist.all_reduce(total)
            found[case, batch_size] = float(total), slopes
    if rank == 0:
        torch.save(found, out / "found.pt")
    dist.destroy_process_group()


def test_two_workers_have_the_gradient_of_the_whole_batch(split, tmp_path):
    mp.spawn(work, (split.folder, tmp_path), nprocs=2)
    for (case, _), (value, found) in torch.load(tmp_path / "found.pt", weights_only=False).items():
        expected, expected_gradient = of_the_whole_batch(split, loss_of(case), (0, 2, 1, 3))
        assert value == pytest.approx(expected, rel=1e-6), case
        assert relative(found, expected_gradient) < 1e-6, case


@pytest.mark.parametrize("name", ["dice", "lovasz_softmax", "loss_max_pooling"])
def test_a_loss_of_a_whole_batch_is_averaged_over_passes_by_their_labelled_pixels(split, name):
    CASES[name] = [(1.0, name, {})]
    value, found = of_a_step(split, loss_of(name), (0, 2, 1, 3), 2)
    passes = [of_the_whole_batch(split, loss_of(name), order) for order in ((0, 2), (1, 3))]
    assert value == pytest.approx(np.mean([each for each, _ in passes]), rel=1e-6)
    assert relative(found, (passes[0][1] + passes[1][1]) / 2) < 1e-6
    value, found = of_a_step(split, loss_of(name), (0, 1, 2, 3), 2)
    (few, few_gradient), (many, many_gradient) = (
        of_the_whole_batch(split, loss_of(name), order) for order in ((0, 1), (2, 3))
    )
    assert value == pytest.approx((16 * few + 512 * many) / 528, rel=1e-6)
    assert relative(found, (16 * few_gradient + 512 * many_gradient) / 528) < 1e-6
