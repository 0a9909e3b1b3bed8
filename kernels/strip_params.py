"""Parameters of kernels that make strips of an image, as those of params.py."""

from typing import NamedTuple


class Strips(NamedTuple):
    """Images (h, width) to (oh, ow) of c channels, ``ldy`` floats a pixel, with cg inputs a group.

    x lies ``xn`` floats from image to image, ``xh`` from row to row, ``xw`` from pixel to pixel and
    ``xc`` from one input of a group to the next; ``xv``: from the inputs of one vector of results to
    those of the next, 0 where all read the same.
    A unit is ``band`` rows of ``piece`` channels.
    """

    h: int
    width: int
    oh: int
    ow: int
    cg: int
    c: int
    ldy: int
    xn: int
    xh: int
    xw: int
    xc: int
    xv: int
    band: int
    piece: int
