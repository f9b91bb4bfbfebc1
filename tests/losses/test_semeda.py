from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from segline.classes import IGNORED
from segline.errors import TrainingError
from segline.losses.edge_network import EdgeNetwork, read
from segline.losses.semeda import Semeda
from segline.losses.task import Task

TASK = Task(names=("sky", "car", "road"))


def test_the_edge_network_is_that_of_the_seed():
    """16, 32 and 2 channels, the same size throughout: 448 + 4640 + 578 weights for three classes."""
    network = EdgeNetwork(3)
    masks = torch.randn(2, 3, 5, 7).softmax(1)
    assert sum(parameter.numel() for parameter in network.parameters()) == 448 + 4640 + 578
    first, second, third = network.embeddings(masks)
    assert [tuple(layer.shape) for layer in (first, second, third)] == [(2, 16, 5, 7), (2, 32, 5, 7), (2, 2, 5, 7)]
    assert min(first.min(), second.min()) == 0
    torch.testing.assert_close(third.sum(1), torch.ones(2, 5, 7))
    torch.testing.assert_close(third, network(masks).softmax(1))


def test_the_edge_network_can_learn_edges():
    """Three layers suffice for the seed's edge: a pixel without eight neighbours of its class."""
    torch.manual_seed(0)
    labels = torch.randint(3, (16, 4, 4)).repeat_interleave(6, 1).repeat_interleave(6, 2)
    patches = torch.nn.functional.pad(labels, (1, 1, 1, 1), value=-1).unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)
    edges = ((patches != labels.unsqueeze(3)) & (patches != -1)).any(3).long()
    masks, network = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float(), EdgeNetwork(3)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(masks), edges).backward()
        optimiser.step()
    assert (network(masks).argmax(1) == edges).float().mean() > 0.97


def test_the_network_is_frozen_and_moves_with_the_loss(make_case):
    case = make_case()
    loss = case.loss("semeda")
    before = {name: value.clone() for name, value in loss.network.state_dict().items()}
    case.value_and_gradient(loss)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in loss.parameters())
    assert all(torch.equal(value, before[name]) for name, value in loss.network.state_dict().items())
    assert all(value.dtype == torch.float64 for value in loss.double().network.state_dict().values())


def test_ignored_pixels_are_empty_for_the_network(make_case):
    """The distance to a truth without these pixels, from a prediction without them."""
    case = make_case(images=1)
    loss, counts = case.loss("semeda"), (case.target != IGNORED).unsqueeze(1)
    predicted = case.logits.softmax(1) * counts
    truth = torch.nn.functional.one_hot(case.target.where(counts.squeeze(1), 0), 4).movedim(-1, 1) * counts
    actual, wanted = (loss.network.embeddings(masks.float()) for masks in (predicted, truth))
    edges = sum(weight * (a - b).abs().mean(1).sum() for weight, a, b in zip((2, 4), actual, wanted, strict=False))
    plain = torch.nn.functional.cross_entropy(case.logits, case.target, ignore_index=IGNORED)
    torch.testing.assert_close(case.value(loss), plain + edges / counts.sum())


def test_without_an_edge_network_the_stage_is_named():
    with pytest.raises(TrainingError, match="segline edges"):
        Semeda(TASK)


def test_a_network_that_does_not_fit_is_refused_in_one_line(tmp_path):
    path = tmp_path / "edges.safetensors"
    cases = {"missing": None, "broken": b"not weights", "others": EdgeNetwork(4).state_dict()}
    for fault, content in cases.items():
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content:
            save_file(content, path)
        with pytest.raises(TrainingError) as caught:
            Semeda(replace(TASK, edge_network=path))
        message = str(caught.value)
        assert message.startswith(str(path)), fault
        assert message.endswith("run `segline edges` again"), fault
        assert "\n" not in message, fault


def test_what_was_written_is_read(tmp_path):
    network = EdgeNetwork(3)
    save_file(network.state_dict(), tmp_path / "edges.safetensors")
    masks = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(read(tmp_path / "edges.safetensors", 3)(masks), network(masks))
