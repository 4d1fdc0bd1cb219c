"""How torch computes: the same for programs and the Python API, so that both give the same bits."""

from __future__ import annotations

import os

import torch

REPRODUCIBLE = "AUTO,STRICT"  # of MKL_CBWR


def set_arithmetic() -> None:
    """Sets process-wide options: MKL's products do not depend on places in memory, cuDNN takes
    deterministic algorithms, and on a GPU float32 matrix products use TF32, as cuDNN's convolutions
    do by default.

    MKL looks at its variable when it first computes: in a process that has used it before, or that
    has set the variable, nothing changes.
    """
    # Else MKL takes kernels that depend on where in memory an array begins, which differs from
    # process to process (AVX-512). It costs hardly any time.
    os.environ.setdefault("MKL_CBWR", REPRODUCIBLE)
    torch.backends.cudnn.deterministic = True
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
