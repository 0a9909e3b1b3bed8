"""Samples that are changed as they come, and their masks and boxes with them."""

from nbconv.train.augment.augment import Augment
from nbconv.train.augment.geometry import resized, rotated
from nbconv.train.augment.policy import OPS, RandAugment

__all__ = ["OPS", "Augment", "RandAugment", "resized", "rotated"]
