"""The gallery of a finished generation: a page of a few hundred rows that needs nothing but itself.

No script, no other file, no address: whoever has the file can look at it. Texts are escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import jinja2

from sgdmix_hub.figures.embedded import data_uri
from sgdmix_hub.figures.panels import TITLES, SheetRow

TEMPLATE = Path(__file__).parents[1] / "templates" / "gallery.html.jinja"
GALLERY_ROWS = 240
LARGEST_GALLERY = 10_000_000  # bytes; further rows are left out
THUMBNAIL, QUALITY = 112, 75
SHOWN = ("source", "mask", "target", "mixed", "refined")


def gallery(title: str, rows: Iterable[SheetRow], num_rows: int, refines: bool) -> str:
    """The page as HTML. `num_rows`: how many rows the version has; `refines`: whether the mixture
    is not the image itself.
    """
    shown = [name for name in SHOWN if refines or name != "refined"]
    made, written = [], 0
    for row in rows:
        pictures = [
            (name, data_uri(row.panels[TITLES.index(name)], THUMBNAIL, QUALITY)) for name in shown
        ]
        written += sum(len(address) for _, address in pictures)
        if written > LARGEST_GALLERY:
            break
        made.append({"caption": " ".join(row.caption.split()), "pictures": pictures})
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, rows=made, num_rows=num_rows, size=THUMBNAIL)
