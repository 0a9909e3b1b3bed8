"""Places of the greatest and the least along an axis.

Elements are compared by integers that rise with them (see `order.py`): -0 and 0 have one, and every
NaN has the greatest.
A float32 is read as its 32 bits.
"""

from ._map import called
from ._simd import Bytes, Int, Int8s, Int32s, Ints, at, inline


@inline
def rank_of_float(bits):
    """An integer that rises with the float32 of these bits."""
    size = Int(bits) & 0x7FFFFFFF
    if size > 0x7F800000:
        return 0x7FFFFFFF
    return -size if bits < 0 else size


@inline
def _itself(value):
    return Int(value)


def _top_k(of, rank, name):
    @inline
    def key(x, place, inner, largest):
        """An integer that rises with what comes first."""
        found = rank(x[place * inner])
        return found if largest == 1 else ~found

    @inline
    def sink(x, heap, count, inner, largest):
        """Order a heap of places again whose root, the one that comes last of all, is new."""
        place = heap[0]
        mine = key(x, place, inner, largest)
        h = 0
        while 2 * h + 1 < count:
            c = 2 * h + 1
            child = heap[c * inner]
            theirs = key(x, child, inner, largest)
            if c + 1 < count:
                other = heap[(c + 1) * inner]
                its = key(x, other, inner, largest)
                if its < theirs or (its == theirs and other > child):
                    c += 1
                    child = other
                    theirs = its
            if mine < theirs or (mine == theirs and place > child):
                break
            heap[h * inner] = child
            h = c
        heap[h * inner] = place

    def top_k(x: of, values: of, places: Ints, n: Int, k: Int, inner: Int, largest: Int, first: Int, last: Int) -> None:
        """values[o, :, i] are the k ``largest`` (or least) of x[o, :, i] in their order, of equal ones the
        first; places[o, :, i] is where they stand. A unit is one (o, i)."""
        for unit in range(first, last):
            o = unit // inner
            column = unit - o * inner
            source = at(x, o * n * inner + column)
            heap = at(places, o * k * inner + column)
            for e in range(k):
                mine = key(source, e, inner, largest)
                h = e
                while h > 0:
                    above = (h - 1) // 2
                    parent = heap[above * inner]
                    if key(source, parent, inner, largest) < mine:
                        break
                    heap[h * inner] = parent
                    h = above
                heap[h * inner] = e
            worst = key(source, heap[0], inner, largest)
            for e in range(k, n):
                if key(source, e, inner, largest) > worst:
                    heap[0] = e
                    sink(source, heap, k, inner, largest)
                    worst = key(source, heap[0], inner, largest)
            for end in range(k - 1, 0, -1):
                place = heap[end * inner]
                heap[end * inner] = heap[0]
                heap[0] = place
                sink(source, heap, end, inner, largest)
            target = at(values, o * k * inner + column)
            for h in range(k):
                target[h * inner] = source[heap[h * inner] * inner]

    return called(f"top_k_{name}", top_k, __name__)


@inline
def _below(bits):
    """An integer that rises as the float32 of these bits falls; NaN has the greatest here, too."""
    found = rank_of_float(bits)
    return found if found == 0x7FFFFFFF else ~found


@inline
def _turned(value):
    return ~Int(value)


def _extreme(of, rank, name):
    def extreme(x: of, y: Ints, n: Int, inner: Int, latest: Int, first: Int, last: Int) -> None:
        """y[o, i] is where x[o, :, i] has the greatest rank, the first or the ``latest`` of equals.
        A unit is one (o, i)."""
        for unit in range(first, last):
            o = unit // inner
            source = at(x, o * n * inner + unit - o * inner)
            place = 0
            best = rank(source[0])
            for t in range(1, n):
                mine = rank(source[t * inner])
                if mine > best or (latest == 1 and mine == best):
                    best = mine
                    place = t
            y[unit] = place

    return called(name, extreme, __name__)


top_k_float32 = _top_k(Int32s, rank_of_float, "float32")
top_k_int32, top_k_int64 = _top_k(Int32s, _itself, "int32"), _top_k(Ints, _itself, "int64")
top_k_int8, top_k_uint8 = _top_k(Int8s, _itself, "int8"), _top_k(Bytes, _itself, "uint8")
arg_max_float32, arg_min_float32 = (
    _extreme(Int32s, rank_of_float, "arg_max_float32"), _extreme(Int32s, _below, "arg_min_float32")
)  # fmt: skip
arg_max_int32, arg_min_int32 = _extreme(Int32s, _itself, "arg_max_int32"), _extreme(Int32s, _turned, "arg_min_int32")
arg_max_int64, arg_min_int64 = _extreme(Ints, _itself, "arg_max_int64"), _extreme(Ints, _turned, "arg_min_int64")
arg_max_int8, arg_min_int8 = _extreme(Int8s, _itself, "arg_max_int8"), _extreme(Int8s, _turned, "arg_min_int8")
arg_max_uint8, arg_min_uint8 = _extreme(Bytes, _itself, "arg_max_uint8"), _extreme(Bytes, _turned, "arg_min_uint8")
