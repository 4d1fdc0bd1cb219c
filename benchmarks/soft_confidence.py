"""The confidence of soft masks that a model predicted: fits it, and tells what it is worth.

    python benchmarks/soft_confidence.py outputs/cutouts/domain outputs/isnet
    python benchmarks/soft_confidence.py outputs/cutouts/domain outputs/isnet --half told \
        --coverage_figure docs/masks_soft_coverage.png

`domain` is made by benchmarks/cutouts.py, `outputs/isnet` by benchmarks/onnx_masks.py, which says
how. The first command reads only the objects whose name has an even CRC-32, in three poses. It fits
`sgdmix_hub/method/predicted_masks.py`, compares what the confidence could be made of, out of fold
over objects, and writes `soft_confidence.json` and `.md` to `--results`. The second tells what the
package's confidence is worth on the other half, beside the mean of a mask inside itself, which was
stated before; it writes `soft_confidence_told.json` and `.md`. Masks are cut at .5, as the package
cuts them.

Rules, set before the other half was looked at:

- The evidence is chosen on the even half: fewest failures (IoU < .5) among the .8 most trusted
  hard photographs, then over all shares; the smaller set where two are alike (within .01).
- The floor: the lowest multiple of .05 at which, on the even half and out of fold, at most .05 of
  the trusted photographs fail, and in each set at most a quarter of what failed before.
- The goal on the other half: at 80 % of the hard photographs at most .22 fail, and of the ordinary
  ones at most .11. It is told whether it is met; nothing is changed after that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from mask_confidence import BEFORE, FAILURE, FOLDS, PENALTY, is_floor, overlap
from parts.masks.drawing import draw_coverage
from parts.masks.photographs import Photograph, photographs
from parts.masks.scores import Judged, above_floor, curve, good_masks, interval, reliability
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
