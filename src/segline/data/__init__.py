"""Images and label maps: layouts, the manifest, crops, splits, shards and augmentation."""
