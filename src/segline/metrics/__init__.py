"""Metrics from counts that are accumulated over a whole split, never means of per-image scores."""
