"""Losses of sequences."""

from __future__ import annotations

import numpy as np

from nbconv.ops.ctc import CTCLoss
from nbconv.ops.shape import Reshape, Slice
from nbconv.train.losses import _reduction
from nbconv.train.readings import Adds


def ctc(
    to: Adds,
    logits: str,
    labels: str,
    *,
    blank: int = 0,
    ignore_index: int = -1,
    time_major: bool = False,
    lengths_first: bool = False,
    zero_infinity: bool = False,
    reduction: str = "mean",
) -> str:
    """-ln of the probability that softmax(x), step by step, shows the labels with blanks and repetitions between them, as
    `torch.nn.functional.ctc_loss` of log-softmax (Graves 2006); ``mean`` divides each sequence's by its labels first.

    ``logits`` (n, steps, classes), or with ``time_major`` (steps, n, classes). ``labels`` int64 (n, most): those of a
    sequence, then ``ignore_index`` to the end; class ``blank`` is no label. ``lengths_first``: the first column says how
    many steps of each sequence count, the labels stand behind it. A sequence of too few steps for its labels has an
    infinite loss, or with ``zero_infinity`` none.
    """
    _reduction(reduction)
    op = CTCLoss(
        blank=blank, pad=ignore_index, reduction=reduction, time_major=int(time_major), zero_infinity=int(zero_infinity)
    )
    if not lengths_first:
        return to.add(op, logits, labels)
    if to.spec(labels).rank != 2 or not to.spec(labels).shape[1]:
        raise ValueError(f"labels are {to.spec(labels)}, wanted (n, 1 + most): lengths, then labels")
    number = [to.constant(np.array([k], np.int64)) for k in (0, 1, to.spec(labels).shape[1])]
    first = to.add(Slice(), labels, number[0], number[1], number[1])
    lengths = to.add(Reshape(), first, to.constant(np.array([-1], np.int64)))
    return to.add(op, logits, to.add(Slice(), labels, number[1], number[2], number[1]), lengths)
