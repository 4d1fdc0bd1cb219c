"""How a GPU computes in float32: the same for programs and the Python API, so that both give the
same bits.
"""

from __future__ import annotations

import torch


def set_arithmetic() -> None:
    """Sets torch's process-wide options: cuDNN takes deterministic algorithms, and on a GPU float32
    matrix products use TF32, as cuDNN's convolutions do by default.
    """
    torch.backends.cudnn.deterministic = True
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
