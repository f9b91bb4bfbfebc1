"""Kervadec et al.: the loss of a crisp prediction is the distance integral between the two regions."""

import numpy as np
import pytest
import torch
from loss_cases import case_of


def discs(centres, side=16, radius=4.5):
    rows, columns = np.mgrid[:side, :side]
    return np.stack([(rows - y) ** 2 + (columns - x) ** 2 < radius**2 for y, x in centres]).astype(np.int64)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("foreground_only", [True, False])
def test_a_crisp_prediction_costs_the_integral_between_the_contours(make_task, seed, foreground_only):
    """Equations 2 to 5: the loss above that of the truth is the sum of distances over where both differ."""
    centres = np.random.default_rng(seed).uniform(4, 11, (2, 2, 2))
    truth, guess = discs(centres[0]), discs(centres[1])
    logits = 200.0 * np.stack([1 - guess, guess], 1)
    case = case_of(torch.from_numpy(truth), make_task(2, 0), logits)
    loss = case.loss("boundary", foreground_only=foreground_only)
    best = case.value(loss, torch.from_numpy(200.0 * np.stack([1 - truth, truth], 1)).float())

    distances = abs(case.maps["signed"][:, 1].numpy())
    between = distances[truth != guess].sum() * (1 if foreground_only else 2)
    assert float(case.value(loss) - best) == pytest.approx(between / truth.size, rel=1e-5)


def test_further_away_costs_more(make_task):
    truth = torch.from_numpy(discs([(8, 5)]))
    values = []
    for shift in range(6):
        guess = discs([(8, 5 + shift)])
        case = case_of(truth, make_task(2, 0), 200.0 * np.stack([1 - guess, guess], 1))
        values.append(float(case.value(case.loss("boundary"))))
    assert values == sorted(values)
    assert len(set(values)) == len(values)
