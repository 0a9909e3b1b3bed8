"""The points by which Winograd's filters are transformed: CPU kernels, CUDA kernels and lowering share
them."""

NEAR, FAR = 5 / 8, 3 / 2
"""The points of Winograd's F(4, 3) beside 0 and ∞, with either sign.
It loses less than half of what the usual 1 and 2 do (Barabasz et al., "Error Analysis and Improving
the Accuracy of Winograd Convolution", 2020), and Bᵀ and Aᵀ are exact in float32."""


def filter_row(point: float, other: float) -> tuple[float, float, float]:
    """The row of its G at a point that is not 0."""
    scale = 0.5 / (point**2 * (point**2 - other**2))
    return scale, scale * point, scale * point**2


AT_0 = 1 / (NEAR**2 * FAR**2), 0.0, 0.0
AT_NEAR, AT_FAR = filter_row(NEAR, FAR), filter_row(FAR, NEAR)
"""Rows of its G, at points that are positive; at negative ones the middle is negative."""
