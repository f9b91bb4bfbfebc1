"""Edge maps are compared with looking at the neighbors of every pixel; the network learns them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segline.classes import IGNORED
from segline.losses.edge_network import EdgeNetwork, edge_map, read_edge_network, train_edge_network
from segline.losses.masking import one_hot
from segline.losses.task import LabelBatches

CLASSES = 4


def edges_pixel_by_pixel(labels):
    height, width = labels.shape
    edges = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(width):
            around = labels[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            known = around[around != IGNORED]
            edges[y, x] = labels[y, x] != IGNORED and (known != labels[y, x]).any()
    return edges


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (9, 13)])
@pytest.mark.parametrize("patch", [1, 3])
def test_an_edge_has_a_neighbor_of_another_class(shape, patch):
    rng = np.random.default_rng([*shape, patch])
    for _ in range(20):
        patches = rng.choice(np.array([0, 1, 2, IGNORED], np.uint8), shape)
        labels = np.kron(patches, np.ones((patch, patch), np.uint8))[: shape[0], : shape[1]]
        assert np.array_equal(edge_map(torch.from_numpy(labels.copy())[None])[0], edges_pixel_by_pixel(labels))


def test_maps_of_a_batch_do_not_touch():
    labels = np.random.default_rng(0).integers(0, 3, (6, 5, 6)).astype(np.uint8)
    edges = edge_map(torch.from_numpy(labels))
    assert edges.dtype == torch.bool
    for edge, label in zip(edges, labels, strict=True):
        assert np.array_equal(edge, edges_pixel_by_pixel(label))


def test_neither_the_border_nor_an_ignored_pixel_is_an_edge():
    labels = torch.full((1, 4, 4), 3, dtype=torch.uint8)
    labels[0, 0] = IGNORED
    assert not edge_map(labels).any()


def blobs(images, seed):
    """Label maps of rectangles over one another, with a few ignored pixels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((images, 48, 48), np.uint8)
    for label in labels:
        for _ in range(8):
            top, left, height, width = rng.integers(0, 40, 2).tolist() + rng.integers(3, 25, 2).tolist()
            label[top : top + height, left : left + width] = rng.integers(0, CLASSES)
        label[rng.random(label.shape) < 0.01] = IGNORED
    return torch.from_numpy(labels)


def batches(train, val):
    """The first maps of the training split, over and over, and one pass over the validation split."""
    return LabelBatches(
        classes=CLASSES,
        device=torch.device("cpu"),
        train=lambda size, count: (
            train[[(size * step + i) % len(train) for i in range(size)]] for step in range(count)
        ),
        val=val.split,
    )


def test_it_is_right_about_more_than_99_percent_as_the_paper_asks():
    torch.manual_seed(3)
    val = blobs(8, 1)
    given = batches(blobs(24, 0), val)
    network, scores = train_edge_network(given, steps=400, batch_size=4, learning_rate=1e-2, min_accuracy=0.999)
    with torch.inference_mode():
        predicted = network(one_hot(val, CLASSES).float()).argmax(1).numpy().astype(bool)
    truth, known = np.stack([edges_pixel_by_pixel(label) for label in val.numpy()]), val.numpy() != IGNORED
    assert scores["accuracy"] == pytest.approx((predicted == truth)[known].mean())
    assert scores["base_accuracy"] == pytest.approx(1 - truth[known].mean())
    hits = (predicted & truth & known).sum()
    precision, recall = hits / (predicted & known).sum(), hits / (truth & known).sum()
    assert scores["precision"] == pytest.approx(precision)
    assert scores["recall"] == pytest.approx(recall)
    assert scores["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert scores["accuracy"] > 0.99 > scores["base_accuracy"]
    assert scores["steps"] <= 400


@pytest.mark.parametrize(("min_accuracy", "steps"), [(0.0, 50), (1.0, 70)])
def test_it_ends_at_the_wanted_accuracy_or_after_its_steps(min_accuracy, steps):
    given = batches(blobs(4, 0), blobs(2, 1))
    _, scores = train_edge_network(given, steps=70, batch_size=2, learning_rate=1e-2, min_accuracy=min_accuracy)
    assert scores["steps"] == steps


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


def test_a_written_network_is_read(tmp_path):
    network = EdgeNetwork(3)
    save_file(network.state_dict(), tmp_path / "edges.safetensors")
    masks = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(read_edge_network(tmp_path / "edges.safetensors", 3)(masks), network(masks))
