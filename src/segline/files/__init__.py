"""Files: atomic writes, trees, buckets."""
