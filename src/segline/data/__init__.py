"""Images and label maps: layouts on disk, the manifest, crops, splits, shards and augmentation."""
