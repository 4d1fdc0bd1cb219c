"""Pictures of a run with few images, in the tests' processes and in the programs that they fork.

A third of a tiny run's time would go into those that users get.
"""

from sgdmix_hub.figures import counts

counts.SHEET_ROWS, counts.SHOWN_CLASSES, counts.SHOWN_IMAGES = 3, 1, 2
