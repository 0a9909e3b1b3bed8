"""Random numbers from counters."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.base.random import bits, integers, normal, philox, uniform


@pytest.mark.parametrize(
    ("key", "counter", "want"),
    [
        (0, (0, 0), (0xFF1DAE59, 0x6CD10DF2)),
        (0xFFFFFFFF, (0xFFFFFFFF, 0xFFFFFFFF), (0x2C3F628B, 0xAB4FD7AD)),
        (0x13198A2E, (0x243F6A88, 0x85A308D3), (0xDD7CE038, 0xF62A4C12)),
    ],
)
def test_known_answers(key: int, counter: tuple[int, int], want: tuple[int, int]) -> None:
    """Random123's kat_vectors, philox2x32 with 10 rounds."""
    a, b = philox(key, np.array([counter[0]]), np.array([counter[1]]))
    assert (int(a[0]), int(b[0])) == want


def test_a_part_is_the_beginning_of_the_whole() -> None:
    whole = bits(7, 1, 3, 101)
    assert whole.dtype == np.uint32
    np.testing.assert_array_equal(bits(7, 1, 3, 50), whole[:50])
    for other in (bits(8, 1, 3, 101), bits(7, 2, 3, 101), bits(7, 1, 4, 101), bits(7 + (1 << 32), 1, 3, 101)):
        assert (other != whole).mean() > 0.9


def test_distributions() -> None:
    u, z = uniform(1, 2, 3, (200, 500)), normal(1, 2, 3, (200, 500))
    assert u.dtype == z.dtype == np.float32
    assert u.shape == z.shape == (200, 500)
    assert 0 <= u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.003
    assert abs(u.var() - 1 / 12) < 0.001
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert np.isfinite(z).all()
    whole = integers(1, 2, 3, 6, (60000,))
    assert whole.dtype == np.int64
    assert np.abs(np.bincount(whole, minlength=6) - 10000).max() < 400
    with pytest.raises(ValueError, match="high is 0"):
        integers(1, 2, 3, 0)
