"""benchmarks/gpu.py, as far as it goes without a GPU."""

from __future__ import annotations

import pytest

from tests.cuda.kernels import NO_KERNELS

pytestmark = pytest.mark.skipif(bool(NO_KERNELS), reason=NO_KERNELS)


def test_a_layer_runs_with_its_input_on_the_device(device):
    from benchmarks import gpu

    graph, feeds, _ = gpu.layer(1, (8, 16, 7, 3, 2))
    run = gpu.ours(graph, feeds)
    sent = len(device.uploads)
    run(3)
    assert len(device.uploads) == sent
    assert not device.downloads
    assert device.launched.count("conv.conv") == 3
    assert gpu.measure({"nbconv": run}, 2, 0.01)["nbconv"] > 0
