"""What all tests share: one core each, and shapes that are checked wherever a signature names them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

CHECKED = ("models", "losses", "metrics", "data.augment", "inference", "training.engine")

install_import_hook([f"segline.{name}" for name in CHECKED], "beartype.beartype")
