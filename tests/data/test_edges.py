"""Edge maps are compared with looking at the neighbours of every pixel."""

import numpy as np
import pytest

from segline.classes import IGNORED
from segline.data.edges import edge_map


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
def test_an_edge_has_a_neighbour_of_another_class(shape, patch):
    rng = np.random.default_rng([*shape, patch])
    for _ in range(20):
        patches = rng.choice(np.array([0, 1, 2, IGNORED], np.uint8), shape)
        labels = np.kron(patches, np.ones((patch, patch), np.uint8))[: shape[0], : shape[1]]
        assert np.array_equal(edge_map(labels), edges_pixel_by_pixel(labels))


def test_maps_of_a_batch_do_not_touch():
    labels = np.random.default_rng(0).integers(0, 3, (2, 3, 5, 6)).astype(np.uint8)
    edges = edge_map(labels)
    assert edges.dtype == bool
    for index in np.ndindex(2, 3):
        assert np.array_equal(edges[index], edges_pixel_by_pixel(labels[index]))


def test_neither_the_border_nor_what_is_ignored_is_an_edge():
    labels = np.full((4, 4), 3, np.uint8)
    labels[0] = IGNORED
    assert not edge_map(labels).any()
