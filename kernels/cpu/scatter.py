"""Updates at indexed rows: a row has one owner, who adds in the updates' order."""

from ._simd import Floats, Int, Ints, kernel, spread


@kernel
def scatter(
    x: Floats,
    updates: Floats,
    y: Floats,
    starts: Ints,
    order: Ints,
    inner: Int,
    adds: Int,
    first: Int,
    last: Int,
) -> None:
    """y[j, :] is updates[t, :], or with ``adds`` x[j, :] + Σ updates[t, :], over the t of ``order`` from starts[j] to
    starts[j + 1]; x[j, :] where there are none. A unit is one j."""
    for j in range(first, last):
        begin = starts[j]
        end = starts[j + 1]
        row = j * inner
        if adds or begin == end:
            for i in spread(inner):
                y[row + i] = x[row + i]
        if adds:
            for k in range(begin, end):
                source = order[k] * inner
                for i in spread(inner):
                    y[row + i] += updates[source + i]
        else:
            for k in range(begin, end):
                source = order[k] * inner
                for i in spread(inner):
                    y[row + i] = updates[source + i]
