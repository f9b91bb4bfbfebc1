"""A contact sheet: thumbnails of pairs, each with its label map in color and a text with its faults."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segline.classes import IGNORED
from segline.data.layouts import UNKNOWN, LabelSpec
from segline.files.atomic import write_file

WIDTH, HEIGHT, GAP = 190, 140, 10
LINE, LINES, LETTERS = 14, 4, 62
COLUMNS = 4
PAPER, INK, FRAME = (255, 255, 255), (30, 30, 30), (225, 225, 225)
IGNORED_COLOR, UNKNOWN_COLOR = (128, 128, 128), (255, 0, 255)


@dataclass(frozen=True)
class Thumbnail:
    """A pair on the sheet.

    Attributes:
        title: The name of the pair.
        text: The faults of the pair.
        image: The image, RGB of any size, or None when it cannot be shown.
        label: The label map in color, RGB of any size, or None when it cannot be shown.
    """

    title: str
    text: str
    image: NDArray[np.uint8] | None
    label: NDArray[np.uint8] | None


def colorize(raw: NDArray[np.integer], label_spec: LabelSpec) -> NDArray[np.uint8]:
    """Return a label map in its classes' colors, at about thumbnail size; gray: ignored, magenta: unknown."""
    colors = np.full((256, 3), UNKNOWN_COLOR, np.uint8)
    colors[: len(label_spec.classes)] = [entry.color for entry in label_spec.classes]
    colors[IGNORED], colors[UNKNOWN] = IGNORED_COLOR, UNKNOWN_COLOR
    step = max(1, max(raw.shape) // (2 * WIDTH))
    return np.asarray(colors[label_spec.lut[raw[::step, ::step]]])


def write_sheet(path: Path, thumbnails: Sequence[Thumbnail], *, heading: str) -> None:
    """Write the sheet as a JPEG, atomically; without thumbnails it is the heading alone.

    Thumbnails are numbered, because Pillow's font has only English letters.
    """
    cell = (2 * WIDTH + 2 * GAP, HEIGHT + (LINES + 1) * LINE + 2 * GAP)
    rows = -(-len(thumbnails) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * cell[0] + GAP, rows * cell[1] + 3 * GAP + LINE), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((GAP, GAP), heading, INK, font)
    for number, thumbnail in enumerate(thumbnails):
        row, column = divmod(number, COLUMNS)
        left, top = GAP + column * cell[0], 3 * GAP + LINE + row * cell[1]
        _paste(sheet, draw, font, (left, top), thumbnail.image, Image.Resampling.BICUBIC)
        _paste(sheet, draw, font, (left + WIDTH + 2, top), thumbnail.label, Image.Resampling.NEAREST)
        lines = [
            textwrap.shorten(f"{number + 1}. {thumbnail.title}", LETTERS),
            *textwrap.wrap(thumbnail.text, LETTERS, max_lines=LINES),
        ]
        draw.multiline_text((left, top + HEIGHT + 3), "\n".join(lines), INK, font, spacing=2)
    write_file(path, lambda temporary: sheet.save(temporary, "JPEG", quality=85))


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    corner: tuple[int, int],
    pixels: NDArray[np.uint8] | None,
    resampling: Image.Resampling,
) -> None:
    """Paste an image into a frame of fixed size, or a notice when there is no image."""
    left, top = corner
    draw.rectangle((left, top, left + WIDTH - 1, top + HEIGHT - 1), FRAME)
    if pixels is None:
        draw.text((left + WIDTH // 2, top + HEIGHT // 2), "nothing to show", INK, font, anchor="mm")
        return
    picture = Image.fromarray(pixels)
    scale = min(WIDTH / picture.width, HEIGHT / picture.height)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), resampling)
    sheet.paste(picture, (left + (WIDTH - picture.width) // 2, top + (HEIGHT - picture.height) // 2))
