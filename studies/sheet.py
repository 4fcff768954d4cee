"""The worst mistakes of a detector -> a contact sheet: small pictures with captions in one image."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from reporting.blocks import shorten
from reporting.mistakes import thumbnail

TILE_PX, LINE_PX, GAP_PX = 240, 16, 8
COLUMNS = 6
CAPTION_CHARS = 38  # that fit below a tile
BACK, INK, GONE = "white", "black", (200, 200, 200)


def contact_sheet(rows: pd.DataFrame) -> Image.Image:
    """Draw a tile for each row of a table of scores (uri, source, score), in rows of COLUMNS from left to right.

    A picture that cannot be read is a grey tile that says so.
    """
    assert len(rows) > 0
    across, down = min(COLUMNS, len(rows)), -(-len(rows) // COLUMNS)
    step_x, step_y = TILE_PX + GAP_PX, TILE_PX + 2 * LINE_PX + GAP_PX
    sheet = Image.new("RGB", (across * step_x + GAP_PX, down * step_y + GAP_PX), BACK)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE_PX - 4)
    for number, row in enumerate(rows.to_dict("records")):
        left, top = GAP_PX + number % COLUMNS * step_x, GAP_PX + number // COLUMNS * step_y
        tile = _tile(Path(row["uri"]))
        sheet.paste(tile, (left + (TILE_PX - tile.width) // 2, top + (TILE_PX - tile.height) // 2))
        draw.text((left, top + TILE_PX), shorten(row["source"], limit=CAPTION_CHARS), INK, font)
        draw.text((left, top + TILE_PX + LINE_PX), f"{row['score']:.3f} {row['benchmark']}", INK, font)
    return sheet


def _tile(path: Path) -> Image.Image:
    made = thumbnail(path, long_side_px=TILE_PX)
    if made is not None:
        with Image.open(io.BytesIO(made[0])) as picture:
            return picture.convert("RGB")
    tile = Image.new("RGB", (TILE_PX, TILE_PX), GONE)
    ImageDraw.Draw(tile).text((GAP_PX, GAP_PX), "cannot be read", INK, ImageFont.load_default(LINE_PX - 4))
    return tile
