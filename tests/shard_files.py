"""Splits for tests, written through Segline's own shard writer from plain arrays."""

from segline.data.parts import join_parts
from segline.data.shards import Crop, write_shard


def write_split(folder, images, labels, *, size=1_000_000, keys=None, group="g", distances=None):
    """Write images (n, h, w, 3), labels (n, h, w) and distance maps, kind -> float16 (n, c, h, w), as shards of
    ``size``; returns the pixels and the digest. Without a group each is a group of its own."""
    keys, distances = keys or [f"crop{number}" for number in range(len(images))], distances or {}
    crops = [
        Crop(
            key,
            group or key,
            top=0,
            left=0,
            scale=1.0,
            image=image,
            label=label,
            distances={name: maps[number] for name, maps in distances.items()},
        )
        for number, (key, image, label) in enumerate(zip(keys, images, labels, strict=True))
    ]
    starts = range(0, len(crops), size)
    channels = {name: maps.shape[1] for name, maps in distances.items()}
    for number, start in enumerate(starts):
        write_shard(folder, number, crops[start : start + size], shape=labels.shape[1:], distances=channels)
    folder.mkdir(parents=True, exist_ok=True)
    return join_parts(folder, len(starts))
