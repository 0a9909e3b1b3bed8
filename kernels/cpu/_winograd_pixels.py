"""What a tile of Winograd's filtering sees."""

from ._simd import inline


@inline
def tile_pixels(table, base, outside, n, oy, ox, edge, size, image, filtering):
    """The addresses of the edge × edge pixels that Winograd's tile at (oy, ox) of image n sees, for
    the table: of images at the address ``base``, elements of ``size`` bytes, and ``outside`` of
    those the address that is given."""
    h, width, ldx = image.h, image.width, image.ldx
    iy0, ix0 = oy - filtering.ph, ox - filtering.pw
    k = 0
    for i in range(edge):
        iy = iy0 + i
        for j in range(edge):
            ix = ix0 + j
            a = outside
            if 0 <= iy and iy < h and 0 <= ix and ix < width:
                a = base + ((n * h + iy) * width + ix) * ldx * size
            table[k] = a
            k += 1
