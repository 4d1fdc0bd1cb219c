"""Pictures of a run with few images and plain plots, in the tests' processes and in the programs
that they fork.

A third of a tiny run's time would go into those that users get.
"""

from sgdmix_hub.figures import counts

counts.SHEET_ROWS, counts.END_ROWS, counts.SHOWN_CLASSES, counts.SHOWN_IMAGES = 1, 2, 1, 2
counts.LAYOUT = None
