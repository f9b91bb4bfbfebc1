from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from segline.classes import IGNORED
from segline.errors import TrainingError
from segline.losses.edge_network import EdgeNetwork
from segline.losses.semeda import EDGE_NETWORK, Semeda
from segline.losses.task import LabelBatches, Task

TASK = Task(names=("sky", "car", "road"))


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
    found, wanted = (loss.network.embeddings(masks.float()) for masks in (predicted, truth))
    edges = sum(weight * (a - b).abs().mean(1).sum() for weight, a, b in zip((2, 4), found, wanted, strict=False))
    plain = torch.nn.functional.cross_entropy(case.logits, case.target, ignore_index=IGNORED)
    torch.testing.assert_close(case.value(loss), plain + edges / counts.sum())


def test_without_an_edge_network_the_command_is_named():
    with pytest.raises(TrainingError, match="which `segline train` trains before the first trial"):
        Semeda(TASK)


def test_a_network_that_does_not_fit_is_refused_in_one_line(tmp_path):
    path = tmp_path / EDGE_NETWORK
    cases = {"missing": None, "broken": b"not weights", "others": EdgeNetwork(4).state_dict()}
    for fault, content in cases.items():
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content:
            save_file(content, path)
        with pytest.raises(TrainingError) as caught:
            Semeda(replace(TASK, prepared=tmp_path))
        message = str(caught.value)
        assert message.startswith(str(path)), fault
        assert message.endswith(f"delete {tmp_path} and run `segline train` again"), fault
        assert "\n" not in message, fault


def test_its_preparation_writes_the_network_and_says_when_it_is_not_good_enough(tmp_path):
    labels = torch.randint(3, (6, 12, 12), dtype=torch.uint8)
    batches = LabelBatches(
        classes=3,
        device=torch.device("cpu"),
        train=lambda size, count: (labels[:size] for _ in range(count)),
        val=labels.split,
    )
    options = {"edge_steps": 2, "edge_batch_size": 4, "edge_learning_rate": 0.01}
    result = Semeda.prepare(batches, tmp_path, **options, edge_min_accuracy=1.0)
    assert [path.name for path in tmp_path.iterdir()] == list(result.files) == [EDGE_NETWORK]
    assert Semeda(replace(TASK, prepared=tmp_path)).network
    assert f"accuracy of {result.scores['accuracy']:.4f} on the validation split after 2 steps" in result.message
    assert result.message.endswith("warning: below edge_min_accuracy, 1; raise edge_steps")
    assert "warning" not in Semeda.prepare(batches, tmp_path, **options, edge_min_accuracy=0.0).message
