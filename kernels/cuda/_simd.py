"""The kernels' language on CUDA: a vector is one float32 of each of a warp's 32 threads (see
`kernels/cpu/_simd.py`).

What is written once for vectors means the same here: literals are float32, a·b+c may be one
rounding, NaN and infinity behave as IEEE 754 says.
`hsum` folds halves first, as on the CPU.
"""

from __future__ import annotations

from ._numba import SIMULATED

if SIMULATED:
    from ._simulated import *  # noqa: F403
else:
    from ._block import *  # noqa: F403
    from ._vector import *  # noqa: F403
