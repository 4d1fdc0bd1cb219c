"""How many images the pictures of a run show, and how its plots are laid out."""

SHEET_ROWS = 8  # rows of a generation's contact sheet
END_ROWS = 6  # best and worst rows of an evaluation
SHOWN_CLASSES, SHOWN_IMAGES = 8, 4  # classes of a training's samples, and images of each
LAYOUT = "constrained"  # matplotlib's
