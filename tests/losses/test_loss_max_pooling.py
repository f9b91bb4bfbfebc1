"""The weights against a solver of the problem that defines them."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from segline.losses.cross_entropy import CrossEntropy
from segline.losses.loss_max_pooling import LossMaxPooling, optimal_weights

DRAWS = {
    "exponential": lambda generator: generator.exponential(1, 20),
    "heavy-tailed": lambda generator: generator.exponential(1, 20) ** 4,
    "equal": lambda generator: np.full(20, 0.7),
    "ties": lambda generator: np.repeat(generator.exponential(1, 5), 4),
    "mostly-zero": lambda generator: np.where(np.arange(20) < 17, 0, generator.exponential(1, 20)),
}


def bounds(p, n, m):
    gamma = n ** (1 / p - 1)
    return gamma, gamma * m ** (-1 / p)


def solved(losses, p, m):
    """The maximum by sequential quadratic programming, drawn back onto the bound that the solver oversteps a little."""
    gamma, tau = bounds(p, len(losses), m)
    scaled = losses / losses.sum()
    parts = minimize(
        lambda v: -v @ scaled,
        np.full(len(losses), len(losses) ** (-1 / p)),
        jac=lambda v: -scaled,
        bounds=[(0, tau / gamma)] * len(losses),
        constraints={"type": "ineq", "fun": lambda v: 1 - (v**p).sum(), "jac": lambda v: -p * v ** (p - 1)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 2000},
    ).x
    weights = gamma * parts * min(1, (parts**p).sum() ** (-1 / p))
    return weights.clip(max=tau) @ losses


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("p", "m"), [(1.3, 4), (1.7, 6), (1.7, 20), (2.0, 1), (4.0, 10)])
def test_the_weights_reach_the_maximum_within_their_bounds(draw, p, m):
    losses = DRAWS[draw](np.random.default_rng(1))
    given = torch.from_numpy(losses)
    weights = optimal_weights(given, given.topk(m).values.amin(), p, len(losses), m).numpy()
    gamma, tau = bounds(p, len(losses), m)
    assert 0 <= weights.min() <= weights.max() <= tau * (1 + 1e-9)
    if draw != "mostly-zero":
        assert (weights**p).sum() ** (1 / p) == pytest.approx(gamma, rel=1e-9), "the norm is used up"
    assert (weights[losses > 0] ** p).sum() ** (1 / p) <= gamma * (1 + 1e-9)
    assert weights @ losses == pytest.approx(solved(losses, p, m), rel=1e-5)


def test_with_norm_one_it_is_the_mean_of_the_worst(make_case):
    case = make_case(side=9)
    losses = torch.nn.functional.cross_entropy(case.logits, case.target, ignore_index=255, reduction="none")
    losses = losses[case.target != 255].sort(descending=True).values
    ours = LossMaxPooling(case.task, p=1.0, share=0.2)(case.logits, case.target)
    torch.testing.assert_close(ours, losses[: round(0.2 * len(losses))].mean())


def test_the_limit_of_small_norms_is_the_mean_of_the_worst(make_case):
    case = make_case(side=9).double()
    near, at = (LossMaxPooling(case.task, p=p)(case.logits, case.target) for p in (1.0001, 1.0))
    assert float(near) == pytest.approx(float(at), rel=1e-3)


def test_with_all_pixels_supporting_it_is_cross_entropy(make_case):
    case = make_case()
    ours = LossMaxPooling(case.task, share=1.0)(case.logits, case.target)
    torch.testing.assert_close(ours, CrossEntropy(case.task)(case.logits, case.target))


@pytest.mark.parametrize("p", [1.0, 1.2, 1.7, 3.0, 10.0])
def test_it_is_never_below_cross_entropy(make_case, p):
    for seed in range(5):
        case = make_case(seed=seed)
        ours = LossMaxPooling(case.task, p=p)(case.logits, case.target)
        assert float(ours) >= float(CrossEntropy(case.task)(case.logits, case.target))
