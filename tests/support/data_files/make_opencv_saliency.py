"""Writes opencv_saliency.npz beside this file: OpenCV's spectral residual maps of demo images.

cv2.saliency is part of opencv-contrib, which cannot be installed beside opencv-python-headless.
The maps were therefore computed once, with OpenCV 5.0.0.93, and committed. To compute them again,
run in the repository root, in the project's environment:

    pip install --no-deps --target /tmp/contrib opencv-contrib-python-headless
    PYTHONPATH=/tmp/contrib python tests/support/data_files/make_opencv_saliency.py

`images`: uint8 (n, 64, 64, 3) RGB, the size at which OpenCV computes; `maps`: float16 (n, 64, 64)
in [0, 1].
"""

from pathlib import Path

import cv2
import numpy as np

from sgdmix_hub.demo.domain import make_dataset

images = np.stack(
    [
        np.asarray(image.convert("RGB"))
        for image in make_dataset(6, 1, 1, 1, seed=3, resolution=64)["train"]["image"]
    ]
)
saliency = cv2.saliency.StaticSaliencySpectralResidual.create()
maps = [saliency.computeSaliency(np.ascontiguousarray(image[..., ::-1]))[1] for image in images]
np.savez_compressed(
    Path(__file__).parent / "opencv_saliency.npz",
    images=images,
    maps=np.stack(maps).astype(np.float16),
)
