"""Parameters of kernels that pick by index, or choose among boxes, as those of params.py."""

from typing import NamedTuple


class Lines(NamedTuple):
    """Indices (outer, length, inner) along an axis of ``size`` elements that lie ``stride`` apart;
    ``width`` columns are done at a time."""

    outer: int
    length: int
    inner: int
    width: int
    size: int
    stride: int


class Boxes(NamedTuple):
    """``n`` boxes an image with a score for each of ``classes``, of which at most ``room`` are kept;
    whether scores are ``limited``, and boxes ``centred``: a middle and a size, not two corners."""

    classes: int
    n: int
    room: int
    limited: int
    centred: int
