"""Windows that slide over an image."""

from ._simd import inline


@inline
def inside(i0, k, d, size):
    """First tap and one past the last tap that fall inside [0, size), of k taps d apart from i0
    on."""
    k0 = 0
    while k0 < k and i0 + k0 * d < 0:
        k0 += 1
    k1 = k
    while k1 > k0 and i0 + (k1 - 1) * d >= size:
        k1 -= 1
    return k0, k1
