"""Splits for tests, written through Segline's own shard writer from plain arrays."""

from segline.data.edges import edge_map
from segline.data.shards import Crop, join_shards, write_shard


def write_split(folder, images, labels, *, size=1_000_000, keys=None, group="g", edges=False):
    """Write images (n, h, w, 3) and labels (n, h, w) as shards of ``size``; returns the pixels and the digest."""
    keys = keys or [f"crop{number}" for number in range(len(images))]
    crops = [
        Crop(key, group, 0, 0, 1.0, *pair, edge_map(pair[1]) if edges else None)
        for key, *pair in zip(keys, images, labels, strict=True)
    ]
    starts = range(0, len(crops), size)
    for number, start in enumerate(starts):
        write_shard(folder, number, crops[start : start + size], shape=labels.shape[1:], edges=edges)
    folder.mkdir(parents=True, exist_ok=True)
    return join_shards(folder, len(starts))
