"""How many images the pictures of a run show."""

SHEET_ROWS = 8  # rows of a generation's contact sheet
SHOWN_CLASSES, SHOWN_IMAGES = 8, 4  # classes of a training's samples, and images of each
