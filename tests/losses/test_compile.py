"""Losses are compiled together with the network; the value and the gradient stay."""

import pytest
import torch

from segline.losses import LOSSES

ASKS_THE_HOST = {"loss_max_pooling": "how many pixels count", "lovasz_softmax": "which classes are there"}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("name", LOSSES)
def test_compiled_it_has_the_same_value_and_gradient(fresh_compiler, make_case, name):
    case = make_case()
    loss = case.loss(name)
    value, gradient = case.value_and_gradient(loss)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=name not in ASKS_THE_HOST)
    logits, *others = case.inputs(loss)
    logits = logits.clone().requires_grad_()
    actual = compiled(logits, *others)
    actual.backward()
    torch.testing.assert_close(actual.detach(), value)
    torch.testing.assert_close(logits.grad, gradient)
