"""Whole models on a GPU, through the NVIDIA driver. Without a GPU the same is done with small ones on a stand-in for its
library, which interprets the kernels."""

from __future__ import annotations

import pytest

import nbconv
from nbconv import models
from nbconv.graph import Graph
from tests.cuda.devices import GPU
from tests.cuda.kernels import NO_KERNELS
from tests.cuda.whole import at_side, compared, lenet5, repeated, steady, trained

pytestmark = pytest.mark.skipif(bool(NO_KERNELS), reason=NO_KERNELS or "-")
on_a_gpu = pytest.mark.skipif(not GPU, reason="this takes a GPU: NBCONV_TEST_DEVICE=cuda says that there is one")
off_a_gpu = pytest.mark.skipif(bool(GPU), reason="the same is done with larger models")


def efficientnet_lite0() -> Graph:
    return nbconv.load(models.path("efficientnet_lite0")).graph


@on_a_gpu
def test_efficientnet_lite0_is_the_cpus(device):
    compared("EfficientNet-Lite0", efficientnet_lite0(), 224, 1e-4)


@on_a_gpu
def test_lenet5_learns_as_on_the_cpu(device):
    trained(lenet5(), 28)


@on_a_gpu
@pytest.mark.parametrize("graph, side", [(lenet5, 28), (lambda: at_side(efficientnet_lite0(), 96), 96)])
def test_the_same_bits_twice(device, graph, side):
    repeated(graph(), side)


@on_a_gpu
def test_memory_does_not_grow(device):
    steady(at_side(efficientnet_lite0(), 96), 96, 24, device)


@off_a_gpu
def test_results_of_a_small_model(device):
    compared("LeNet-5", lenet5(side=12), 12, 1e-5)
    assert device.launched


@off_a_gpu
def test_training_of_a_small_model(device):
    trained(lenet5(side=12), 12)


@off_a_gpu
def test_bits_of_a_small_model(device):
    repeated(lenet5(side=12), 12)
    assert device.replays


@off_a_gpu
def test_memory_of_a_small_model(device):
    steady(lenet5(side=12), 12, 4, device)
    assert device.replays
