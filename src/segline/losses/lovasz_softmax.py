"""Lovász-softmax (Seed S1, section 7.6.2; Berman et al. 2018, "The Lovász-Softmax loss", section 3).

Ignored pixels are left out of the sort. With ``per_image`` the mean runs over the images that hold a pixel that
counts; the authors' code counts an image without one as zero.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from segline.losses.masking import one_hot, probabilities, valid
from segline.losses.task import Task


class LovaszSoftmax(nn.Module):
    r"""The Lovász extension of the Jaccard loss of each class, averaged over the classes.

    .. math:: \frac1{|C|} \sum_{c \in C} \sum_i m_{\pi_i}(c)
              \left( \Delta_c(\{\pi_1 \dots \pi_i\}) - \Delta_c(\{\pi_1 \dots \pi_{i-1}\}) \right)

    The error m of a pixel is one minus the probability of class c inside the class and the probability outside;
    the permutation sorts the errors downwards; Delta is the Jaccard loss, one minus intersection over union, of the
    truth with these pixels wrong. If all pixels are ignored the loss is zero.

    >>> target = torch.tensor([[[0, 1]]])
    >>> LovaszSoftmax(Task(names=("sky", "road")))(torch.zeros(1, 2, 1, 2), target)
    tensor(0.5000)
    """

    def __init__(
        self,
        task: Task,
        *,
        per_image: Annotated[bool, "the loss of each image, then the mean; otherwise of the batch as a whole"] = False,
        classes: Annotated[Literal["present", "all"], "mean over the classes in the truth or over all"] = "present",
    ) -> None:
        super().__init__()
        self.per_image = per_image
        self.classes = classes

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """The loss of a batch."""
        predicted = probabilities(logits)
        if not self.per_image:
            return self._of_one(predicted, target)
        images = (slice(i, i + 1) for i in range(len(target)))
        losses = torch.stack([self._of_one(predicted[image], target[image]) for image in images])
        return losses.sum() / valid(target).flatten(1).any(1).sum().clamp(min=1)

    def _of_one(self, predicted: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """The mean over the classes, with all pixels in one sort per class."""
        truth, mask = one_hot(target, predicted.shape[1]), valid(target)
        chosen = truth.any((0, 2, 3)) if self.classes == "present" else mask.any().expand(truth.shape[1])
        slopes = torch.zeros_like(predicted)
        for k in chosen.nonzero().flatten().tolist():
            slopes[:, k] = error_weights(predicted[:, k].detach(), truth[:, k], mask)
        # The errors are g + (1 - 2g) p, and their weights are constant between two orders.
        errors = torch.where(truth, 1 - predicted, predicted)
        return (slopes * errors).sum() / chosen.sum().clamp(min=1)


def error_weights(
    predicted: Float[Tensor, "b h w"], truth: Bool[Tensor, "b h w"], mask: Bool[Tensor, "b h w"]
) -> Float[Tensor, "b h w"]:
    """What each pixel's error counts in the Lovász extension for one class; zero where ignored."""
    # Errors are at least 0: at -1 the ignored pixels come after all that count.
    errors = torch.where(mask, torch.where(truth, 1 - predicted, predicted), -1).flatten()
    order = errors.argsort(descending=True)
    inside = truth.flatten()[order]
    missed = inside.cumsum(0, dtype=torch.int32)
    added = (~inside).cumsum(0, dtype=torch.int32)
    jaccard = 1 - (truth.sum() - missed) / (truth.sum() + added).clamp(min=1).to(errors.dtype)
    weights = torch.empty_like(errors).scatter_(0, order, jaccard.diff(prepend=jaccard.new_zeros(1)))
    return weights.view_as(predicted) * mask
