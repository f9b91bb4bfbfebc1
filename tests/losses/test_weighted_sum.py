import pytest
import torch
from loss_formulas import LOOPS

from segline.losses import LOSSES, WeightedSum

TERMS = [(0.25, "dice"), (2.0, "cross_entropy"), (0.0, "bounding_box"), (0.5, "boundary"), (3.0, "distance_map")]


def test_a_weighted_sum_adds_up(make_case):
    case = make_case()
    total = WeightedSum([(weight, case.loss(name)) for weight, name in TERMS])

    def value(logits):
        return total(logits, case.target, case.maps)

    expected = sum(weight * LOOPS[name](case) for weight, name in TERMS)
    assert float(value(case.logits)) == pytest.approx(expected, rel=1e-5)
    assert value(case.logits.half()).dtype == torch.float32
    assert value(case.logits.double()).dtype == torch.float64
    logits = case.logits.clone().requires_grad_()
    value(logits).backward()
    parts = [weight * case.value_and_gradient(case.loss(name))[1] for weight, name in TERMS]
    torch.testing.assert_close(logits.grad, sum(parts))


def test_a_weighted_sum_asks_for_the_maps_of_its_terms(make_case):
    case = make_case()
    every = WeightedSum([(1.0, case.loss(name)) for name in [*LOSSES, *LOSSES]])
    assert every.distances == ("border", "signed", "touching")
    assert float(every(case.logits, case.target, case.maps)) == pytest.approx(
        2 * sum(LOOPS[name](case) for name in LOSSES), rel=1e-5
    )


def test_a_sum_of_losses_without_maps_needs_none(make_case):
    case = make_case()
    total = WeightedSum([(1.0, case.loss("dice"))])
    assert total.distances == ()
    assert torch.equal(total(case.logits, case.target), case.value(case.loss("dice")))
