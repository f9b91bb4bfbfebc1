"""Inference: a model in its folder, and its averaged predictions."""
