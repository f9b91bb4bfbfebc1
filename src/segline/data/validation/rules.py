"""The rules of validate: names, severities, thresholds, and the messages about rows that fail."""

from dataclasses import replace
from typing import Any

from segline.config.sections import Validate
from segline.data.validation.expectations import Rule


def rules(settings: Validate) -> list[Rule]:
    """Return all rules for the table except drift."""
    all_rules = [*_rules_of_the_manifest(settings), *_rules_of_files(), *_rules_of_labels(settings)]
    all_rules += [*_rules_of_images(settings), *_rules_between_pairs()]
    return [replace(rule, severity=getattr(settings.severity, rule.slug, "stop")) for rule in all_rules]


def _rules_of_the_manifest(settings: Validate) -> list[Rule]:
    again = "run `segline ingest` again"
    return [
        Rule(
            slug="min_pairs",
            name=f"there are at least {settings.min_pairs} pairs",
            expectation="ExpectTableRowCountToBeBetween",
            options={"min_value": settings.min_pairs},
            reason=f"the data have fewer than {settings.min_pairs} pairs; add pairs or lower validate.min_pairs",
        ),
        Rule(
            slug="key_twice",
            name="every key is unique",
            expectation="ExpectColumnValuesToBeUnique",
            options={"column": "key"},
            reason=f"the manifest has the key {{key}} twice; {again}",
        ),
    ]


def _rules_of_files() -> list[Rule]:
    return [
        _rule_against(
            "image_missing",
            "every label map has an image",
            "image",
            [""],
            "{label}: the label map has no image; add the image or remove the label map",
        ),
        _rule_against(
            "label_missing",
            "every image has a label map",
            "label",
            [""],
            "{image}: the image has no label map; add the label map or remove the image",
        ),
        _rule_of_empty(
            "image_unreadable",
            "the image can be read completely",
            "image_error",
            "{image}: {image_error}; write the file again or remove the pair",
        ),
        _rule_of_empty(
            "label_unreadable",
            "the label map can be read completely",
            "label_error",
            "{label}: {label_error}; write the file again or remove the pair",
        ),
    ]


def _rules_of_labels(settings: Validate) -> list[Rule]:
    return [
        _rule_of_empty(
            "unknown_values",
            "the layout knows every label value",
            "unknown_values",
            "{label}: got the label values {unknown_values}, expected those of the layout; correct the label map",
        ),
        Rule(
            slug="size_mismatch",
            name="the label map is as large as the image",
            expectation="ExpectColumnPairValuesToBeEqual",
            options={"column_A": "image_size", "column_B": "label_size", "ignore_row_if": "either_value_is_missing"},
            reason="{label}: the label map has {label_size} px, the image {image_size} px; make them the same size",
        ),
        _rule_of_range(
            "empty_label",
            "at least one pixel is labelled",
            "labelled_pixels",
            {"min_value": 1},
            "{label}: no pixel is labelled; label it or remove the pair",
        ),
        _rule_of_range(
            "no_foreground",
            f"foreground has more than {settings.min_foreground_share:g} of the labelled pixels",
            "foreground_share",
            {"min_value": settings.min_foreground_share, "strict_min": True},
            f"{{label}}: foreground has {{foreground_share:.3g}} of the labelled pixels, expected more than "
            f"{settings.min_foreground_share:g}",
        ),
    ]


# Longer than 40 lines, because it is one list of rules.
def _rules_of_images(settings: Validate) -> list[Rule]:
    low, high = settings.min_brightness, settings.max_brightness
    return [
        _rule_of_range(
            "too_small",
            f"the shortest side has at least {settings.min_side} px",
            "shortest_side",
            {"min_value": settings.min_side},
            f"{{image}}: the image has {{image_size}} px, expected a shortest side of {settings.min_side} px "
            "(validate.min_side)",
        ),
        _rule_against(
            "rotated",
            "the image is stored upright",
            "orientation",
            list(range(2, 9)),
            "{image}: stored rotated (EXIF {orientation}); save it upright, so that image and label map agree",
        ),
        _rule_of_range(
            "brightness",
            f"the mean gray level is {low:g} to {high:g}",
            "brightness",
            {"min_value": low, "max_value": high},
            f"{{image}}: the mean gray level is {{brightness:.1f}}, expected {low:g} to {high:g}",
        ),
        _rule_of_range(
            "sharpness",
            f"the variance of the Laplacian is at least {settings.min_sharpness:g}",
            "sharpness",
            {"min_value": settings.min_sharpness},
            f"{{image}}: the image is blurred or empty, the variance of its Laplacian is {{sharpness:.1f}}, expected "
            f"at least {settings.min_sharpness:g}",
        ),
        Rule(
            slug="channels",
            name="the image is RGB",
            expectation="ExpectColumnValuesToBeInSet",
            options={"column": "mode", "value_set": ["RGB", ""]},
            reason="{image}: the channels are {mode} and are converted to RGB",
        ),
        _rule_of_range(
            "bit_depth",
            "the image has at most 8 bits per channel",
            "bits",
            {"max_value": 8},
            "{image}: the image has {bits} bits per channel, of which the upper 8 are kept",
        ),
    ]


def _rules_between_pairs() -> list[Rule]:
    return [
        _rule_of_empty(
            "label_conflict",
            "no image has two label maps",
            "conflicts_with",
            "{image}: the same image as {conflicts_with} with another label map; keep the right pair, remove the other",
        ),
        _rule_of_empty(
            "duplicate",
            "every pair is unique",
            "duplicate_of",
            "{image}: the same image and label map as {duplicate_of}, which is kept; remove one of the pairs",
        ),
        _rule_of_empty(
            "near_duplicate",
            "no two images on different sides of a split look alike",
            "looks_like",
            "{image}: looks like {looks_like}; move both to one side of the split or remove one",
        ),
        _rule_of_empty(
            "group_in_splits",
            "every group is in one split",
            "other_splits",
            "{key}: the group {group} is in {split} and in {other_splits}; keep each group in one split",
        ),
    ]


def _rule_of_empty(slug: str, name: str, column: str, reason: str) -> Rule:
    options = {"column": column, "value_set": [""]}
    return Rule(slug=slug, name=name, expectation="ExpectColumnValuesToBeInSet", options=options, reason=reason)


def _rule_against(slug: str, name: str, column: str, values: list[Any], reason: str) -> Rule:
    options = {"column": column, "value_set": values}
    return Rule(slug=slug, name=name, expectation="ExpectColumnValuesToNotBeInSet", options=options, reason=reason)


def _rule_of_range(slug: str, name: str, column: str, bounds: dict[str, Any], reason: str) -> Rule:
    options = {"column": column} | bounds
    return Rule(slug=slug, name=name, expectation="ExpectColumnValuesToBeBetween", options=options, reason=reason)
