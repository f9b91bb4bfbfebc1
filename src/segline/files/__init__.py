"""Files: atomic writes, hashes, locks, retries, trees of files, and buckets of S3."""
