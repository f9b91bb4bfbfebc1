"""``LAYOUTS``: the dataset layouts by name. A new layout is one file here and one line in the table.

An entry returns a :class:`Layout`; its keyword-only parameters are the options of ``ingest.layout``.
"""

from collections.abc import Callable

from segline.data.layouts.ade20k import ade20k
from segline.data.layouts.camvid import camvid
from segline.data.layouts.cityscapes import cityscapes
from segline.data.layouts.folders import folders
from segline.data.layouts.helen import helen
from segline.data.layouts.layout import UNKNOWN, LabelSpec, Layout, Pair
from segline.data.layouts.lyft import lyft
from segline.data.layouts.segthor import segthor
from segline.data.layouts.voc import voc
from segline.data.layouts.wad import wad

LAYOUTS: dict[str, Callable[..., Layout]] = {
    "ade20k": ade20k,
    "camvid": camvid,
    "cityscapes": cityscapes,
    "folders": folders,
    "helen": helen,
    "lyft": lyft,
    "segthor": segthor,
    "voc": voc,
    "wad": wad,
}

__all__ = ["LAYOUTS", "UNKNOWN", "LabelSpec", "Layout", "Pair"]
