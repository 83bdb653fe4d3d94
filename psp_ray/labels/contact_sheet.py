"""A query set at a glance: numbered thumbnails on a page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from psp_ray.core.files import write_with
from psp_ray.core.writing import writing
from psp_ray.data.images import ImageError, decode, read_file

CELL = 160
"""Pixels of a thumbnail's side; the number stands below it."""
CAPTION = 22
COLUMNS = 8
PER_SHEET = 200
SHEET = "contact_sheet"
"""What the files' names begin with."""


def write_contact_sheets(folder: Path, pictures: Sequence[tuple[str, Path]]) -> list[Path]:
    """Write `contact_sheet.png`, and `contact_sheet_2.png` ... where (caption, image file) pairs fill more than one.

    Other sheets that lie there, of what was asked before, are removed. Raises OutputError.
    """
    sheets = []
    for start in range(0, len(pictures), PER_SHEET):
        name = f"{SHEET}.png" if not start else f"{SHEET}_{start // PER_SHEET + 1}.png"
        sheet = _sheet(pictures[start : start + PER_SHEET])
        write_with(folder / name, partial(sheet.save, format="png"))
        sheets.append(folder / name)
    for old in set(folder.glob(f"{SHEET}*.png")) - set(sheets):
        with writing(old):
            old.unlink(missing_ok=True)
    return sheets


def _sheet(pictures: Sequence[tuple[str, Path]]) -> Image.Image:
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    gap = 8
    page = Image.new("RGB", (columns * (CELL + gap) + gap, rows * (CELL + CAPTION + gap) + gap), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=15)
    for place, (caption, file) in enumerate(pictures):
        left = gap + (place % columns) * (CELL + gap)
        top = gap + (place // columns) * (CELL + CAPTION + gap)
        try:
            image = decode(read_file(file))
            scale = CELL / max(image.size)  # tiny images grow too: an 8-pixel digit must be seen
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
            page.paste(image, (left + (CELL - size[0]) // 2, top + (CELL - size[1]) // 2))
        except ImageError as error:
            draw.text((left, top), str(error), fill="red", font=font)
        draw.text((left + CELL / 2, top + CELL + 2), caption, fill="black", font=font, anchor="ma")
    return page
