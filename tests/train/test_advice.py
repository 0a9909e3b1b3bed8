"""Warnings of `fit`: samples in arrays that are trained on and validated on."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import nbconv
from tests.train.models import batch, mlp, model

X, Y = batch(40)


def fitted(train: object, validation: object) -> None:
    nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.01)).fit(train, validation)


def test_samples_that_are_in_both() -> None:
    with pytest.warns(UserWarning, match="12 of 24 samples of the validation data are in the training data"):
        fitted((X[:28], Y[:28]), (X[16:], Y[16:]))
    with pytest.warns(UserWarning, match="40 of 40 samples"):
        fitted(nbconv.Arrays(X, Y), nbconv.Arrays(X, Y))


def test_none_where_there_are_none() -> None:
    """A part held out, one sample in common, and samples of few values, which are equal by chance."""
    few = np.random.default_rng(0).integers(0, 2, (40, 1, 4, 4)).astype(np.float32)
    few[:, :, 1:] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted((X, Y), 0.25)
        fitted((X[:20], Y[:20]), (X[20:], Y[20:]))
        fitted((X[:11], Y[:11]), (X[10:], Y[10:]))
        fitted((few, Y), (few, Y))
