"""Training: the engine's plain loops, and the search that runs many of them."""
