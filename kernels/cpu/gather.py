"""Picking by index, and the sums that are its gradients: an element has one owner, who adds in the
indices' order."""

from ._simd import Floats, Int, Ints, kernel, spread


@kernel
def gather(
    x: Floats,
    y: Floats,
    places: Ints,
    count: Int,
    size: Int,
    inner: Int,
    first: Int,
    last: Int,
) -> None:
    """y[o, t, :] = x[o, places[t], :], x is (outer, size, inner); a unit is one (o, t)."""
    for unit in range(first, last):
        o = unit // count
        source = (o * size + places[unit - o * count]) * inner
        for i in spread(inner):
            y[unit * inner + i] = x[source + i]


@kernel
def gather_grad(
    dy: Floats,
    indices: Ints,
    dx: Floats,
    count: Int,
    size: Int,
    inner: Int,
    width: Int,
    first: Int,
    last: Int,
) -> None:
    """dx[o, j, :] = Σ dy[o, t, :] over the t with indices[t] = j, of those that are within; a unit is
    ``width`` columns of one o."""
    parts = (inner + width - 1) // width
    for unit in range(first, last):
        o = unit // parts
        begin = (unit - o * parts) * width
        columns = min(width, inner - begin)
        for j in range(size):
            for i in spread(columns):
                dx[(o * size + j) * inner + begin + i] = 0
        for t in range(count):
            j = indices[t]
            if j < 0:
                j += size
            if j >= 0 and j < size:
                target = (o * size + j) * inner + begin
                source = (o * count + t) * inner + begin
                for i in spread(columns):
                    dx[target + i] += dy[source + i]


@kernel
def gather_elements_grad(
    dy: Floats, indices: Ints, dx: Floats, count: Int, size: Int, inner: Int, first: Int, last: Int
) -> None:
    """dx[o, j, i] = Σ dy[o, t, i] over the t with indices[o, t, i] = j, of those that are within; a unit
    is one o."""
    for unit in range(first, last):
        for j in range(size):
            for i in spread(inner):
                dx[(unit * size + j) * inner + i] = 0
        for t in range(count):
            for i in spread(inner):
                source = (unit * count + t) * inner + i
                j = indices[source]
                if j < 0:
                    j += size
                if j >= 0 and j < size:
                    dx[(unit * size + j) * inner + i] += dy[source]
