"""Cases for the tests of the losses: logits, class ids, and distance maps computed by hand from the class ids."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from segline.classes import IGNORED
from segline.losses import LOSSES, required_distances
from segline.losses.task import Task

FAR = 1000.0


@dataclass(frozen=True)
class Case:
    logits: torch.Tensor
    target: torch.Tensor
    task: Task
    maps: dict[str, torch.Tensor]

    def loss(self, name, **options):
        return LOSSES[name](self.task, **options)

    def inputs(self, loss):
        return self.logits, self.target, *(self.maps[name] for name in required_distances(loss))

    def value(self, loss, logits=None):
        given, *others = self.inputs(loss)
        return loss(given if logits is None else logits, *others)

    def value_and_gradient(self, loss, logits=None):
        given = (self.logits if logits is None else logits).clone().requires_grad_()
        value = self.value(loss, given)
        value.backward()
        return value.detach(), given.grad

    def changed(self, change):
        """The case with every tensor changed in the same way."""
        return replace(
            self,
            logits=change(self.logits),
            target=change(self.target),
            maps={name: change(values) for name, values in self.maps.items()},
        )

    def double(self):
        return replace(
            self, logits=self.logits.double(), maps={name: values.double() for name, values in self.maps.items()}
        )


def case_of(target, task, logits=None, seed=0):
    """Return the case of given class ids; ``touching`` is drawn, as it depends on instances."""
    ids = target.numpy()
    generator = np.random.default_rng(seed)
    if logits is None:
        logits = generator.normal(0, 2, (len(ids), len(task.names), *ids.shape[1:]))
    maps = {
        "border": np.stack([distance_to_contour(image) for image in ids])[:, None],
        "touching": generator.uniform(0, 12, (len(ids), 1, *ids.shape[1:])),
        "signed": np.stack([signed_distances(image, len(task.names)) for image in ids]),
    }
    tensors = {name: torch.tensor(values, dtype=torch.float32) for name, values in maps.items()}
    return Case(torch.as_tensor(logits, dtype=torch.float32), target, task, tensors)


def random_target(images=3, classes=4, side=6, ignored=0.2, seed=0, absent=None):
    """Return class ids; some pixels are ignored, and one class may be missing."""
    generator = np.random.default_rng(seed)
    target = generator.integers(0, classes, (images, side, side))
    if absent is not None:
        target[target == absent] = (absent + 1) % classes
    target[generator.random(target.shape) < ignored] = IGNORED
    return torch.tensor(target)


def truth_logits(case, scale=60.0):
    """Return logits that are certain of the truth."""
    ids = case.target.where(case.target != IGNORED, 0)
    return scale * torch.nn.functional.one_hot(ids, len(case.task.names)).movedim(-1, 1).float()


def distance_to_contour(labels):
    """Return each pixel's distance from its centre to the nearest piece of pixel edge between two classes."""
    height, width = labels.shape
    rows, columns = np.mgrid[:height, :width]
    nearest = np.full(labels.shape, FAR)
    for y in range(height):
        for x in range(width):
            for down, right in ((1, 0), (0, 1)):
                below, beside = y + down, x + right
                if below == height or beside == width or IGNORED in (labels[y, x], labels[below, beside]):
                    continue
                if labels[y, x] != labels[below, beside]:
                    # The edge lies halfway between two centres and is one pixel long.
                    aside = np.maximum(abs(rows - y - down / 2) - right / 2, 0)
                    along = np.maximum(abs(columns - x - right / 2) - down / 2, 0)
                    nearest = np.minimum(nearest, np.hypot(aside, along))
    return nearest


def signed_distances(labels, classes):
    maps = np.zeros((classes, *labels.shape))
    for k in set(labels[labels != IGNORED].tolist()):
        inside = np.where(labels == IGNORED, IGNORED, labels == k)
        maps[k] = distance_to_contour(inside) * np.where(labels == k, -1, 1)
    return maps
