"""What a manifest says of launches is checked before it is used."""

from __future__ import annotations

import copy

import pytest

from nbconv.kernels.store import _launches

GOOD = {
    "size": 900,
    "kernels": {"conv": [["x", "float32*"], ["rows", "int64"]]},
    "launch": {"conv": {"by": "rows", "variants": [[64, ["conv", 128, 128, 0, 400]], [128, ["conv", 256, 256, 400, 900]]]}},
}


def test_what_the_compiler_writes_is_taken():
    assert _launches(GOOD)


@pytest.mark.parametrize(
    "where, value",
    [
        (("by",), "x"), (("by",), "columns"), (("variants",), []), (("variants", 0, 0), "64"), (("variants", 0, 1, 0), 7),
        (("variants", 0, 1, 1), 0), (("variants", 0, 1, 2), 2048), (("variants", 0, 1, 3), -1), (("variants", 0, 1, 4), 0),
        (("variants", 1, 1, 4), 901), (("variants", 1, 1, 4), 900.0),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(where, value):
    bad = copy.deepcopy(GOOD)
    place = bad["launch"]["conv"]
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    assert not _launches(bad)


def test_each_kernel_has_a_launch():
    assert not _launches({**GOOD, "launch": {}})
