"""Picking and putting by indices that a run computes: each is checked before it becomes an address.

A negative index counts from the end of its axis.
Of one that leaves its axis the kernel takes the first element, and tells it: ``wrong`` has two words a
unit, the size of the axis that is left, or 0, and the first such index.
Elements are moved by their bytes: `take_along_2` moves float16 and int16 alike.
"""

from nbconv.kernels.index_params import Lines

from ._map import called
from ._simd import Bytes, Floats, Int, Ints, Shorts, at, inline, kernel, spread

PUT, ADD, MULTIPLY, GREATEST, LEAST = range(5)
"""How an update meets what is there."""


@kernel
def places(
    indices: Ints,
    sizes: Ints,
    y: Ints,
    wrong: Ints,
    depth: Int,
    batch: Int,
    n: Int,
    chunk: Int,
    first: Int,
    last: Int,
) -> None:
    """y[t] is the row-major place that indices[t, :] name in axes of these ``sizes``, behind an axis
    of batches, of ``batch`` indices each.
    A unit is ``chunk`` of the n indices."""
    for unit in range(first, last):
        left = 0
        index = 0
        t0 = unit * chunk
        before = t0 // batch
        beyond = (before + 1) * batch
        for t in range(t0, min(t0 + chunk, n)):
            if t == beyond:
                before += 1
                beyond += batch
            place = before
            for a in range(depth):
                size = sizes[a]
                j = indices[t * depth + a]
                within = j + size if j < 0 else j
                if within < 0 or within >= size:
                    if left == 0:
                        left = size
                        index = j
                    within = 0
                place = place * size + within
            y[t] = place
        wrong[2 * unit] = left
        wrong[2 * unit + 1] = index


def _take_along(of, name):
    def take_along(x: of, indices: Ints, y: of, starts: Ints, wrong: Ints, lines: Lines, first: Int, last: Int) -> None:
        """y[o, t, i] = x[starts[o] + stride·indices[o, t, i] + starts[outer + i]].
        A unit is ``width`` columns of one o."""
        outer, count, inner, width, size, stride = lines
        parts = (inner + width - 1) // width
        columns = at(starts, outer)
        for unit in range(first, last):
            o = unit // parts
            begin = (unit - o * parts) * width
            end = min(begin + width, inner)
            source = at(x, starts[o])
            left = 0
            index = 0
            for t in range(count):
                row = (o * count + t) * inner
                for i in range(begin, end):
                    j = indices[row + i]
                    within = j + size if j < 0 else j
                    if within < 0 or within >= size:
                        if left == 0:
                            left = size
                            index = j
                        within = 0
                    y[row + i] = source[within * stride + columns[i]]
            wrong[2 * unit] = left
            wrong[2 * unit + 1] = index

    return called(name, take_along, __name__)


@inline
def _met(old, new, how):
    """What stays of an element and its update; NaN does."""
    if how == ADD:
        return old + new
    if how == MULTIPLY:
        return old * new
    if how == GREATEST:
        return new if new > old or new != new else old
    if how == LEAST:
        return new if new < old or new != new else old
    return new


@inline
def _new(old, new, how):
    return new


def _put_along(of, meet, name):
    def put_along(
        updates: of,
        indices: Ints,
        y: of,
        starts: Ints,
        wrong: Ints,
        lines: Lines,
        how: Int,
        first: Int,
        last: Int,
    ) -> None:
        """y[starts[o] + stride·indices[o, t, i] + starts[outer + i]] meets updates[o, t, i], in the order
        of t.
        A unit is ``width`` columns of one o."""
        outer, count, inner, width, size, stride = lines
        parts = (inner + width - 1) // width
        columns = at(starts, outer)
        for unit in range(first, last):
            o = unit // parts
            begin = (unit - o * parts) * width
            end = min(begin + width, inner)
            target = at(y, starts[o])
            left = 0
            index = 0
            for t in range(count):
                row = (o * count + t) * inner
                for i in range(begin, end):
                    j = indices[row + i]
                    within = j + size if j < 0 else j
                    if within < 0 or within >= size:
                        if left == 0:
                            left = size
                            index = j
                    else:
                        place = within * stride + columns[i]
                        target[place] = meet(target[place], updates[row + i], how)
            wrong[2 * unit] = left
            wrong[2 * unit + 1] = index

    return called(name, put_along, __name__)


def _put(of, meet, name):
    def put(updates: of, places: Ints, y: of, count: Int, inner: Int, width: Int, how: Int, first: Int, last: Int) -> None:
        """y[places[t], :] meets updates[t, :], in the order of t, for checked places.
        A unit is ``width`` columns."""
        for unit in range(first, last):
            begin = unit * width
            n = min(width, inner - begin)
            for t in range(count):
                target = at(y, places[t] * inner + begin)
                source = at(updates, t * inner + begin)
                for i in spread(n):
                    target[i] = meet(target[i], source[i], how)

    return called(name, put, __name__)


take_along_1, take_along_2 = _take_along(Bytes, "take_along_1"), _take_along(Shorts, "take_along_2")
take_along_4, take_along_8 = _take_along(Floats, "take_along_4"), _take_along(Ints, "take_along_8")
put_along_1, put_along_2 = _put_along(Bytes, _new, "put_along_1"), _put_along(Shorts, _new, "put_along_2")
put_along_4, put_along_8 = _put_along(Floats, _met, "put_along_4"), _put_along(Ints, _new, "put_along_8")
put_1, put_2 = _put(Bytes, _new, "put_1"), _put(Shorts, _new, "put_2")
put_4, put_8 = _put(Floats, _met, "put_4"), _put(Ints, _new, "put_8")
