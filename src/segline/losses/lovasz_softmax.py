"""Lovász-softmax (Seed S1, section 7.6.2; Berman et al. 2018, "The Lovász-Softmax loss", section 3).

Ignored pixels do not take part in the sort. With ``per_image`` the mean runs over the images that have a valid pixel;
the authors' code takes the loss of an image without one as zero.
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

    The error m of a pixel is one minus the probability of class c inside the class and the probability outside; the
    permutation sorts the errors in descending order; Delta is the Jaccard loss, one minus intersection over union, of
    the truth with these pixels wrong. If all pixels are ignored the loss is zero.

    Where a step has several passes or workers, each sorts its own pixels, and the loss of the step is the mean of
    theirs weighted by their valid pixels: not that of the whole batch. With ``per_image`` it is the whole batch's.

    >>> target = torch.tensor([[[0, 1]]])
    >>> LovaszSoftmax(Task(names=("sky", "road")))(torch.zeros(1, 2, 1, 2), target)
    tensor(0.5000)
    """

    def __init__(
        self,
        task: Task,
        *,
        per_image: Annotated[
            bool, "take the mean of the images' losses instead of one loss of the whole batch"
        ] = False,
        classes: Annotated[
            Literal["present", "all"], "take the mean over the classes in the truth or over all"
        ] = "present",
    ) -> None:
        super().__init__()
        self.per_image = per_image
        self.classes = classes

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        predicted = probabilities(logits)
        if not self.per_image:
            return self._one_loss(predicted, target)
        images = (slice(i, i + 1) for i in range(len(target)))
        losses = torch.stack([self._one_loss(predicted[image], target[image]) for image in images])
        return losses.sum() / valid(target).flatten(1).any(1).sum().clamp(min=1)

    def denominator(self, target: Integer[Tensor, "b h w"]) -> Tensor:
        """Return the weight of a pass in its step: its images with a valid pixel, or its valid pixels."""
        labelled = valid(target)
        return labelled.flatten(1).any(1).sum() if self.per_image else labelled.sum()

    def _one_loss(self, predicted: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Return the mean over the classes, with all pixels in one sort per class."""
        truth, mask = one_hot(target, predicted.shape[1]), valid(target)
        chosen = truth.any((0, 2, 3)) if self.classes == "present" else mask.any().expand(truth.shape[1])
        weights = torch.zeros_like(predicted)
        for k in chosen.nonzero().flatten().tolist():
            weights[:, k] = error_weights(predicted[:, k].detach(), truth[:, k], mask)
        # The errors are g + (1 - 2g) p, and their weights are constant as long as the order is.
        errors = torch.where(truth, 1 - predicted, predicted)
        return (weights * errors).sum() / chosen.sum().clamp(min=1)


def error_weights(
    predicted: Float[Tensor, "b h w"], truth: Bool[Tensor, "b h w"], mask: Bool[Tensor, "b h w"]
) -> Float[Tensor, "b h w"]:
    """Return the weight of each pixel's error in the Lovász extension for one class; zero where ignored."""
    # Errors are at least 0, so that -1 sorts the ignored pixels after the valid ones.
    errors = torch.where(mask, torch.where(truth, 1 - predicted, predicted), -1).flatten()
    order = errors.argsort(descending=True)
    inside = truth.flatten()[order]
    missed = inside.cumsum(0, dtype=torch.int32)
    added = (~inside).cumsum(0, dtype=torch.int32)
    jaccard = 1 - (truth.sum() - missed) / (truth.sum() + added).clamp(min=1).to(errors.dtype)
    weights = torch.empty_like(errors).scatter_(0, order, jaccard.diff(prepend=jaccard.new_zeros(1)))
    return weights.view_as(predicted) * mask
