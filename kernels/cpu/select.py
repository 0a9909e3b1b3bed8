"""What of an array is chosen, where values decide how much that is: the results stand packed at the
begin of memory that all would fit in, zeros behind, and a word says how many there are."""

from nbconv.kernels.index_params import Boxes

from ._map import called
from ._simd import (
    Bytes,
    Float,
    Floats,
    Int,
    Int32s,
    Ints,
    Shorts,
    W,
    address,
    at,
    hmax,
    inline,
    ints_at,
    kernel,
    load,
    maximum,
    minimum,
    splat,
    store,
    where,
)

BLOCK = 4
"""Vectors of boxes that are compared between two looks at what was found."""
LARGEST = 0xFFFFFFFF
UNRANKED = -0x7FFFFFFF


@inline
def _rank(bits):
    """An integer that rises with the float32 of these bits; of NaN less than of all others."""
    size = Int(bits) & 0x7FFFFFFF
    if size > 0x7F800000:
        return UNRANKED
    return -size if bits < 0 else size


@inline
def _filled(value):
    return value != 0


@inline
def _filled_float(bits):
    return (Int(bits) & 0x7FFFFFFF) != 0


def _non_zero(of, filled, name):
    def non_zero(x: of, sizes: Ints, y: Ints, count: Ints, rank: Int, n: Int, first: Int, last: Int) -> None:
        """y (rank, count): the places of what is not 0 of n elements, whose shape is ``sizes``, in
        row-major order, and zeros up to (rank, n). One unit."""
        found = 0
        for e in range(n):
            y[found] = e  # of the flat array, until the number of rows' entries is known
            found += 1 if filled(x[e]) else 0
        count[0] = found
        for a in range(rank - 1, 0, -1):
            for k in range(found):
                place = y[k]
                whole = place // sizes[a]
                y[a * found + k] = place - whole * sizes[a]
                y[k] = whole
        for e in range(rank * found, rank * n):
            y[e] = 0

    return called(f"non_zero_{name}", non_zero, __name__)


non_zero_1, non_zero_2 = _non_zero(Bytes, _filled, "1"), _non_zero(Shorts, _filled, "2")
non_zero_4, non_zero_8 = _non_zero(Int32s, _filled, "4"), _non_zero(Ints, _filled, "8")
non_zero_float32 = _non_zero(Int32s, _filled_float, "float32")


def _compress(of, name):
    def compress(
        x: of,
        condition: Bytes,
        y: of,
        count: Ints,
        outer: Int,
        n: Int,
        inner: Int,
        entries: Int,
        first: Int,
        last: Int,
    ) -> None:
        """y (outer, count, inner): x[:, t, :] for the t of the ``entries`` with condition[t], and zeros up
        to x's size. One unit."""
        found = 0
        for o in range(outer):
            for t in range(entries):
                if condition[t] != 0:
                    source = at(x, (o * n + t) * inner)
                    target = at(y, found * inner)
                    for i in range(inner):
                        target[i] = source[i]
                    found += 1
        for e in range(found * inner, outer * n * inner):
            y[e] = 0
        count[0] = found // outer

    return called(f"compress_{name}", compress, __name__)


compress_1, compress_2 = _compress(Bytes, "1"), _compress(Shorts, "2")
compress_4, compress_8 = _compress(Int32s, "4"), _compress(Ints, "8")


@inline
def _sink(heap, count, h):
    """Order a heap, the greatest at its root, again below h."""
    mine = heap[h]
    while 2 * h + 1 < count:
        c = 2 * h + 1
        if c + 1 < count and heap[c + 1] > heap[c]:
            c += 1
        if heap[c] < mine:
            break
        heap[h] = heap[c]
        h = c
    heap[h] = mine


@inline
def _corners(box, centred):
    """(least, greatest) along both axes."""
    a, b, c, d = box[0], box[1], box[2], box[3]
    if centred == 1:
        half, other = c / Float(2.0), d / Float(2.0)
        return a - half, b - other, a + half, b + other
    whole = a == a and c == c
    low, high = (a if a < c else c), (c if a < c else a)
    if not whole:
        low = high = a + c
    whole = b == b and d == d
    left, right = (b if b < d else d), (d if b < d else b)
    if not whole:
        left = right = b + d
    return low, left, high, right


@kernel
def suppress(
    boxes: Floats,
    scores: Int32s,
    iou: Floats,
    least: Int32s,
    most: Ints,
    kept: Ints,
    counts: Ints,
    scratch: Floats,
    shape: Boxes,
    first: Int,
    last: Int,
    slot: Int,
) -> None:
    """Greedy suppression: kept[u, :counts[u]] are boxes of one class of one image by falling score, of
    equal ones the first, each overlapping (IoU) none before it by more than the limit.
    A unit is a class of an image; a thread has 2·n + 5·room words of scratch memory, room a multiple
    of vectors."""
    classes, n, room, limited, centred = shape
    keys = ints_at(address(scratch, slot * (2 * n + 5 * room)))
    low_y = at(scratch, slot * (2 * n + 5 * room) + 2 * n)
    low_x = at(low_y, room)
    high_y = at(low_y, 2 * room)
    high_x = at(low_y, 3 * room)
    areas = at(low_y, 4 * room)
    limit = splat(iou[0])
    bound = _rank(least[0])
    wanted = min(most[0], room)
    for unit in range(first, last):
        image = at(boxes, unit // classes * n * 4)
        of_class = at(scores, unit * n)
        chosen = at(kept, unit * room)
        m = 0
        for e in range(n):
            rank = _rank(of_class[e])
            if limited == 0 or (rank > bound and bound != UNRANKED):
                keys[m] = (rank << 32) + (LARGEST - e)
                m += 1
        for h in range(m // 2 - 1, -1, -1):
            _sink(keys, m, h)
        count = 0
        while m > 0 and count < wanted:
            e = LARGEST - (keys[0] & LARGEST)
            m -= 1
            keys[0] = keys[m]
            _sink(keys, m, 0)
            y0, x0, y1, x1 = _corners(at(image, 4 * e), centred)
            product = (y1 - y0) * (x1 - x0)
            area = product if product > Float(0.0) else Float(0.0)
            free = True
            if area > Float(0.0):
                s = 0
                while free and s < count:
                    hits = splat(0.0)
                    for _ in range(BLOCK):
                        if s < count:
                            wide = maximum(
                                minimum(splat(x1), load(high_x, s)) - maximum(splat(x0), load(low_x, s)), splat(0.0)
                            )
                            high = maximum(
                                minimum(splat(y1), load(high_y, s)) - maximum(splat(y0), load(low_y, s)), splat(0.0)
                            )
                            shared = maximum(high * wide, splat(0.0))  # no product is contracted, here and above
                            other = load(areas, s)
                            union = other + area - shared
                            over = (shared / union > limit) & (union > 0.0) & (other > 0.0)
                            hits = maximum(hits, where(over, splat(1.0), splat(0.0)))
                            s += W
                    free = not hmax(hits) > Float(0.0)
            if free:
                if count % W == 0:
                    store(areas, count, splat(0.0))
                low_y[count] = y0
                low_x[count] = x0
                high_y[count] = y1
                high_x[count] = x1
                areas[count] = area
                chosen[count] = e
                count += 1
        counts[unit] = count


@kernel
def rows(
    kept: Ints,
    counts: Ints,
    y: Ints,
    total: Ints,
    groups: Int,
    classes: Int,
    room: Int,
    most: Int,
    first: Int,
    last: Int,
) -> None:
    """y (total, 3): image, class and box of what `suppress` kept, and zeros up to (most, 3). One unit."""
    k = 0
    for unit in range(groups):
        image = unit // classes
        for i in range(counts[unit]):
            y[3 * k] = image
            y[3 * k + 1] = unit - image * classes
            y[3 * k + 2] = kept[unit * room + i]
            k += 1
    total[0] = k
    for e in range(3 * k, 3 * most):
        y[e] = 0


@inline
def _above(loss, labels, n, bound):
    """How many losses of negatives rank at ``bound`` or above."""
    count = 0
    for e in range(n):
        count += 1 if labels[e] == 0 and _rank(loss[e]) >= bound else 0
    return count


@kernel
def hardest(
    loss: Int32s,
    labels: Ints,
    y: Floats,
    n: Int,
    ratio: Int,
    least: Int,
    first: Int,
    last: Int,
) -> None:
    """y = 1 where the label is above 0, and for the ``ratio`` times as many, ``least`` at least, of those
    with label 0 that have the greatest loss, of equal ones the first; else 0. A unit is a picture."""
    for unit in range(first, last):
        mine = at(loss, unit * n)
        whose = at(labels, unit * n)
        made = at(y, unit * n)
        positive = 0
        for e in range(n):
            positive += 1 if whose[e] > 0 else 0
        wanted = max(ratio * positive, least)
        low = UNRANKED  # as many as are wanted rank there, if there are
        high = -UNRANKED  # fewer
        if _above(mine, whose, n, low) <= wanted:
            high = low
        while high - low > 1:
            middle = (low + high) // 2
            if _above(mine, whose, n, middle) >= wanted:
                low = middle
            else:
                high = middle
        ties = wanted - _above(mine, whose, n, high)
        for e in range(n):
            taken = whose[e] > 0
            if whose[e] == 0:
                rank = _rank(mine[e])
                taken = rank >= high
                if not taken and rank == low and ties > 0:
                    taken = True
                    ties -= 1
            made[e] = Float(1.0) if taken else Float(0.0)
