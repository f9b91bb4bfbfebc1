"""Documents with one error each, and the line that the loader says about it."""

import re

# The JSON Schema refuses these as well.
SHAPE = [
    ({"sed": 1}, "sed: unknown key; did you mean 'seed'?"),
    ({"train": {"epoch": 1}}, "train.epoch: unknown key; did you mean 'epochs'?"),
    ({"ingest": {"synthetic": {"drive": 9}}}, "ingest.synthetic.drive: unknown key; did you mean 'drives'?"),
    (
        {"label": {"split": {"zzz": 1}}},
        "label.split.zzz: unknown key; known are fold, folds, method, test, test_groups, train, val, val_groups",
    ),
    ({"label": {"crop": True}}, "label.crop: got True, expected a whole number 16 to 4096, or [height, width] of such"),
    ({"label": {"crop": 15}}, "label.crop: got 15, expected a whole number 16 to 4096, or [height, width] of such"),
    ({"label": {"crop": [96]}}, "label.crop: got [96], expected a whole number 16 to 4096, or [height, width] of such"),
    ({"label": {"crop": [96, 15]}}, re.compile(r"label\.crop: got \[96, 15\], expected a whole number 16 to 4096, or")),
    ({"label": {"crop": None}}, "label.crop: got None, expected a whole number 16 to 4096, or [height, width] of such"),
    ({"train": {"learning_rate": "fast"}}, "train.learning_rate: got 'fast', expected a number 1e-08 to 10"),
    ({"train": {"precision": "fp16"}}, "train.precision: got 'fp16', expected one of auto, bf16, fp32"),
    (
        {"label": {"class_maps": {"wad": {"a": "car"}}}},
        re.compile(r"label\.class_maps: got .*, expected a mapping"),
    ),
    ({"ingest": {"layout": "wat"}}, "ingest.layout: unknown layout 'wat'; did you mean 'wad'?"),
    ({"ingest": {"layout": 3}}, "ingest.layout: got 3, expected a name, or a name with its options"),
    ({"name": "a/b"}, re.compile("name: got 'a/b', expected letters")),
    ({"train": {"models": []}}, re.compile(r"train\.models: got \[\], expected a list .*\[unet\]")),
    ({"train": {"models": "unet"}}, re.compile(r"train\.models: got 'unet', expected a list")),
    ({"train": {"models": None}}, re.compile(r"train\.models: got None, expected a list")),
    ({"train": {"losses": []}}, re.compile(r"train\.losses: got \[\], expected a list .*\[dice\]")),
    ({"train": {"models": ["unt"]}}, "train.models[0]: unknown model 'unt'; did you mean 'unet'?"),
    (
        {"train": {"models": ["unet", "zzz"]}},
        re.compile(r"train\.models\[1\]: unknown model 'zzz'; known are .*unet, "),
    ),
    ({"train": {"losses": ["dise"]}}, "train.losses[0]: unknown loss 'dise'; did you mean 'dice'?"),
    ({"train": {"losses": [{"dice": {}, "dise": {}}]}}, re.compile(r"train\.losses\[0\]: unknown loss 'dise'")),
    (
        {"train": {"models": [{"unet": {"widht": 3}}]}},
        "train.models[0].unet.widht: unknown option; did you mean 'width'?",
    ),
    (
        {"train": {"models": [{"unet": {"width": 0}}]}},
        "train.models[0].unet.width: got 0, expected a whole number 1 to 512",
    ),
    ({"train": {"models": [{"unet": {"weight": 1}}]}}, re.compile(r"train\.models\[0\]\.unet\.weight: unknown")),
    ({"train": {"models": [{"unet": 3}]}}, "train.models[0].unet: got 3, expected a mapping of options"),
    ({"train": {"models": [{"unet": 0}]}}, "train.models[0].unet: got 0, expected a mapping of options"),
    ({"train": {"models": [{"unet": False}]}}, "train.models[0].unet: got False, expected a mapping of options"),
    ({"train": {"models": [{"unet": []}]}}, "train.models[0].unet: got [], expected a mapping of options"),
    ({"train": {"models": [5]}}, re.compile(r"train\.models\[0\]: got 5, expected a name")),
    ({"train": {"losses": [{}]}}, re.compile(r"train\.losses\[0\]: got \{\}, expected a name")),
    ({"train": {"models": [{"unet": {}, "unet_resnet34": {}}]}}, re.compile(r"train\.models\[0\]: got 2 models")),
    ({"train": {"losses": [{"dice": {"weight": -1}}]}}, re.compile(r"train\.losses\[0\]\.dice\.weight: got -1")),
    ({"train": {"losses": [{"dice": {"weight": True}}]}}, re.compile(r"train\.losses\[0\]\.dice\.weight: got T")),
    ({"train": None}, "train: got None, expected a mapping of keys to values"),
    ({"label": {"split": [0.8, 0.1, 0.1]}}, re.compile(r"label\.split: got \[.*\], expected a mapping")),
    (
        {"label": {"distances": ["borders"]}},
        "label.distances: got ['borders'], expected a list of border, signed, touching",
    ),
    (
        {"train": {"models": [{"unet_resnet34": {"pretrained": 1}}]}},
        "train.models[0].unet_resnet34.pretrained: got 1, expected true or false or text",
    ),
    (
        {"train": {"models": [{"deeplab_v3": {"output_stride": 32}}]}},
        "train.models[0].deeplab_v3.output_stride: got 32, expected one of 8, 16",
    ),
    (
        {"train": {"losses": [{"cross_entropy": {"class_weights": {"person": "much"}}}]}},
        re.compile(r"train\.losses\[0\]\.cross_entropy\.class_weights: got .*, expected a mapping of names to numbers"),
    ),
    ({"ingest": {"sha256": "00"}}, "ingest.sha256: got '00', expected 64 digits in hex, or nothing"),
    ({"train": {"checkpoints": "gs://x"}}, "train.checkpoints: got 'gs://x', expected s3://bucket/prefix, or nothing"),
    (
        {"label": {"class_maps": {"wda": {"a": ["car"]}}}},
        "label.class_maps.wda: unknown layout 'wda'; did you mean 'wad'?",
    ),
    (
        {"label": {"class_maps": {"wad": {"a": ["kar"]}}}},
        "label.class_maps.wad: unknown class 'kar'; did you mean 'car'?",
    ),
    (
        {"label": {"class_maps": {"wad": {"a": []}}}},
        "label.class_maps.wad.a: got no classes, expected some of the layout's",
    ),
    (
        {"label": {"class_maps": {"wad": {"a\nb": ["car"]}}}},
        "label.class_maps.wad: got the class name 'a\\nb', expected text that can be shown in one line",
    ),
    ({"label": {"class_maps": {"wad": {"a": ["car", "car"]}}}}, "label.class_maps.wad: names 'car' twice; remove one"),
    (
        {"train": {"search": {"spaces": {"zzz": [1]}}}},
        re.compile(r"train\.search\.spaces\.zzz: unknown hyperparameter; known are "),
    ),
    (
        {"train": {"search": {"spaces": {"learning_rate": []}}}},
        re.compile(r"train\.search\.spaces\.learning_rate: got \[\], expected a list"),
    ),
    (
        {"train": {"search": {"spaces": {"learning_rate": 0.1}}}},
        re.compile(r"train\.search\.spaces\.learning_rate: got 0.1, expected a list"),
    ),
    (
        {"train": {"search": {"spaces": {"learning_rate": [0.1, 20]}}}},
        re.compile(r"train\.search\.spaces\.learning_rate\[1\]: got 20"),
    ),
    (
        {"train": {"search": {"spaces": {"learning_rate": {"low": 1}}}}},
        re.compile(r"train\.search\.spaces\.learning_rate: got .*, expected a list"),
    ),
    (
        {"train": {"search": {"spaces": {"learning_rate": {"low": 1, "high": 20}}}}},
        re.compile(r"train\.search\.spaces\.learning_rate\.high: got 20"),
    ),
    (
        {"train": {"search": {"spaces": {"max_grad_norm": {"low": 0, "high": 1, "log": True}}}}},
        re.compile(r"train\.search\.spaces\.max_grad_norm: got .*, expected low below high, and above 0"),
    ),
    (
        {"train": {"search": {"spaces": {"dice.squared": {"low": False, "high": True}}}}},
        re.compile(r"train\.search\.spaces\.dice\.squared: got a range"),
    ),
    (
        {"train": {"search": {"spaces": {"spp.output_stride": {"low": 8, "high": 16}}}}},
        re.compile(r"train\.search\.spaces\.spp\.output_stride: got a range, expected a list of values"),
    ),
]
# These hold between several values, or JSON Schema has no word for them: to it, 160.0 is a whole number.
BEYOND_SCHEMA = [
    (
        {"label": {"crop": 160.0}},
        "label.crop: got 160.0, expected a whole number 16 to 4096, or [height, width] of such",
    ),
    ({"label": {"split": {"train": 0.7}}}, "label.split: got shares that add up to 0.9, expected 1"),
    ({"train": {"models": ["unet", "unet"]}}, re.compile("train: the same model with the same loss .* twice")),
    (
        {"train": {"models": ["unet"], "losses": ["dice", "bounding_box", "dice"]}},
        re.compile("train: the same model with the same"),
    ),
    (
        {"train": {"models": ["unet"], "losses": [{"dice": {}, "distance_map": {}}]}},
        "label.distances: lacks 'border', which train.losses[0].distance_map needs; add it",
    ),
    (
        {"train": {"models": ["unet", {"unet_resnet50": {"skips": "concat"}}]}},
        "train.models[1].unet_resnet50.pretrained: got false, which freezes three stages at random weights; "
        "expected weights, or modified: true",
    ),
    (
        {"train": {"models": ["pixel_mlp"], "losses": ["dice"]}},
        "train.models[0].pixel_mlp.pretrained: got false, which freezes the encoder at random weights; expected "
        "shipped, true or a file",
    ),
    (
        {"train": {"models": [{"pixel_mlp": {"pretrained": "shipped"}}], "losses": ["dice", "sobel"]}},
        "train.losses[1].sobel: needs whole images, but pixel_mlp keeps the features of single pixels; train it "
        "without pixel_mlp, or set pixel_mlp.max_gb: 0, which is slow",
    ),
    (
        {"train": {"search": {"spaces": {"learning_rate": {"low": 1, "high": 1}}}}},
        re.compile(r"train\.search\.spaces\.learning_rate: got .*, expected low below high"),
    ),
    (
        {"label": {"class_maps": {"wad": {"a": ["car"], "b": ["car"]}}}},
        "label.class_maps.wad: names 'car' twice; remove one",
    ),
    ({"label": {"crop": 32, "tile_overlap": 32}}, "label.tile_overlap: got 32, expected less than label.crop"),
    (
        {"label": {"crop": [64, 32]}, "train": {"augment": {"crop": 64}}},
        "train.augment.crop: got 64, expected no more than label.crop",
    ),
    ({"label": {"crop": [64, 32], "tile_overlap": 32}}, "label.tile_overlap: got 32, expected less than label.crop"),
    ({"label": {"split": {"folds": 5, "fold": 5}}}, re.compile(r"label\.split\.fold: got fold 5 of 5")),
    (
        {"validate": {"min_brightness": 9, "max_brightness": 8}},
        re.compile(r"validate\.min_brightness: got 9, expected no more"),
    ),
    (
        {"train": {"search": {"searcher": "optuna"}}},
        re.compile(r"train\.search\.num_samples: got 1, expected more than"),
    ),
]
