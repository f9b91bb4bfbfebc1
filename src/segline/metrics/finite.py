"""Numbers that are not finite: a model that gives one is broken, though the most probable class has a number."""

from jaxtyping import Float
from torch import Tensor


def first_nonfinite(logits: Float[Tensor, "b k h w"]) -> int | None:
    """Return the first image of a batch with a logit that is infinite or not a number, or None.

    >>> import torch
    >>> first_nonfinite(torch.zeros(2, 3, 4, 5)), first_nonfinite(torch.tensor([1.0, -torch.inf]).view(2, 1, 1, 1))
    (None, 1)
    """
    broken = (~logits.isfinite()).flatten(1).any(1).nonzero()
    return int(broken[0]) if len(broken) else None
