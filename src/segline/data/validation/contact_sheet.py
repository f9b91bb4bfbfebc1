"""A contact sheet: small pictures of pairs, each with its label map in colors and what is wrong with it."""

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
        title: names it.
        text: what is wrong with it.
        image: RGB of any size, or None when there is none to show.
        label: the label map in colors, likewise.
    """

    title: str
    text: str
    image: NDArray[np.uint8] | None
    label: NDArray[np.uint8] | None


def colorize(raw: NDArray[np.integer], legend: LabelSpec) -> NDArray[np.uint8]:
    """A label map of about the size of a tile: its classes' colors, grey where ignored, magenta where unknown."""
    colors = np.full((256, 3), UNKNOWN_COLOR, np.uint8)
    colors[: len(legend.classes)] = [entry.color for entry in legend.classes]
    colors[IGNORED], colors[UNKNOWN] = IGNORED_COLOR, UNKNOWN_COLOR
    step = max(1, max(raw.shape) // (2 * WIDTH))
    return np.asarray(colors[legend.lut[raw[::step, ::step]]])


def write_sheet(path: Path, tiles: Sequence[Thumbnail], *, heading: str) -> None:
    """Write the sheet as a JPEG, atomically; without tiles it is the heading alone.

    Tiles are numbered, because Pillow's font shows no letters but English ones.
    """
    cell = (2 * WIDTH + 2 * GAP, HEIGHT + (LINES + 1) * LINE + 2 * GAP)
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * cell[0] + GAP, rows * cell[1] + 3 * GAP + LINE), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((GAP, GAP), heading, INK, font)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, COLUMNS)
        left, top = GAP + column * cell[0], 3 * GAP + LINE + row * cell[1]
        _paste(sheet, draw, font, (left, top), tile.image, Image.Resampling.BICUBIC)
        _paste(sheet, draw, font, (left + WIDTH + 2, top), tile.label, Image.Resampling.NEAREST)
        lines = [
            textwrap.shorten(f"{number + 1}. {tile.title}", LETTERS),
            *textwrap.wrap(tile.text, LETTERS, max_lines=LINES),
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
    """An image in a frame of the same size for all; a frame that says so when there is none."""
    left, top = corner
    draw.rectangle((left, top, left + WIDTH - 1, top + HEIGHT - 1), FRAME)
    if pixels is None:
        draw.text((left + WIDTH // 2, top + HEIGHT // 2), "nothing to show", INK, font, anchor="mm")
        return
    picture = Image.fromarray(pixels)
    scale = min(WIDTH / picture.width, HEIGHT / picture.height)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), resampling)
    sheet.paste(picture, (left + (WIDTH - picture.width) // 2, top + (HEIGHT - picture.height) // 2))
