"""``LAYOUTS``: the dataset layouts by name. A new layout is one file here and one line in the table."""

from segline.data.layouts.camvid import CAMVID
from segline.data.layouts.layout import UNKNOWN, Layout, Pair, read_image
from segline.data.layouts.wad import WAD

LAYOUTS: dict[str, Layout] = {
    "camvid": CAMVID,
    "wad": WAD,
}

__all__ = ["LAYOUTS", "UNKNOWN", "Layout", "Pair", "read_image"]
