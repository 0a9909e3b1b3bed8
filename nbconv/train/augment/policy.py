"""Policies: some of many changes, drawn for each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nbconv.base.image import pillow
from nbconv.train.augment import geometry
from nbconv.train.augment.augment import Augment

MOST = 30
"""The strongest magnitude."""
SIGNED = {
    "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness",
}  # fmt: skip
"""Changes that go either way."""


def _move(name: str, amount: float, size: tuple[int, int]) -> np.ndarray | None:
    """The matrix of a change that moves pixels, ``amount`` from -1 to 1; None for one that doesn't."""
    if name == "rotate":
        return geometry.turn(30 * amount, size)
    if name in ("shear_x", "shear_y"):
        by = 0.3 * amount
        return geometry.shear(by, 0, size) if name == "shear_x" else geometry.shear(0, by, size)
    if name in ("translate_x", "translate_y"):
        by = 150 / 331 * amount
        return geometry.shift(0, by * size[1]) if name == "translate_x" else geometry.shift(by * size[0], 0)
    return None


def _enhanced(kind: str) -> Callable[[Any, float], Any]:
    def change(image: Any, amount: float) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, kind)(image).enhance(1 + 0.9 * amount)

    return change


def _ops(kind: str, *of: Callable[[float], int]) -> Callable[[Any, float], Any]:
    def change(image: Any, amount: float) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, kind)(image, *(f(amount) for f in of))

    return change


COLOURS: dict[str, Callable[[Any, float], Any]] = {
    "brightness": _enhanced("Brightness"),
    "color": _enhanced("Color"),
    "contrast": _enhanced("Contrast"),
    "sharpness": _enhanced("Sharpness"),
    "posterize": _ops("posterize", lambda amount: 8 - round(4 * amount)),
    "solarize": _ops("solarize", lambda amount: round(256 * (1 - amount))),
    "autocontrast": _ops("autocontrast"),
    "equalize": _ops("equalize"),
    "invert": _ops("invert"),
}
OPS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness",
    "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
"""What RandAugment draws from, as the paper has it."""


class RandAugment(Augment):
    """``num_ops`` changes of each sample, drawn from ``ops``, each of strength ``magnitude``, from 0 to 30 (Cubuk 2020,
    RandAugment; ranges as torchvision's). ``ops``: names of `OPS`, or "invert". Pictures are of 8 bits a channel, 1 or 3
    channels: ``white`` is their brightest value, 255, or 1 for arrays of 0 to 1. Other ``options`` are those of `Augment`,
    done before (crops, flips) and after (colours, cutout, mixup)."""

    def __init__(
        self, num_ops: int = 2, magnitude: float = 9, *, ops: Sequence[str] = OPS, white: float = 255.0, **options: Any
    ) -> None:
        super().__init__(**options)
        unknown = [name for name in ops if name not in OPS and name not in COLOURS]
        if unknown or not ops:
            raise ValueError(f"ops are {', '.join(unknown) or 'none'}, wanted some of {', '.join((*OPS, 'invert'))}")
        if not 0 <= magnitude <= MOST:
            raise ValueError(f"magnitude is {magnitude}, wanted from 0 to {MOST}")
        if num_ops < 1 or not white > 0:
            raise ValueError(f"num_ops is {num_ops} and white {white}, wanted 1 or more, and a positive number")
        self.num_ops, self.magnitude, self.ops, self.white = int(num_ops), magnitude, tuple(ops), white

    @property
    def moves(self) -> bool:
        return super().moves or any(_move(name, 1.0, (2, 2)) is not None for name in self.ops)

    def more(self, x: np.ndarray, moves: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        if x.ndim != 3 or len(x) not in (1, 3):
            raise ValueError(f"a sample has shape {list(x.shape)}: RandAugment wants pictures of 1 or 3 channels")
        image, size, fill = _image(x, self.white), (x.shape[1], x.shape[2]), round(self.fill * 255 / self.white)
        for k in rng.integers(0, len(self.ops), self.num_ops):
            name, amount = self.ops[k], self.magnitude / MOST
            amount = -amount if name in SIGNED and rng.random() < 0.5 else amount
            move = _move(name, amount, size)
            if move is not None:
                image = _moved(image, move, fill)
                moves.append(move)
            elif name in COLOURS:
                image = COLOURS[name](image, amount)
        planes = np.empty(x.shape, np.float32)
        for plane, out in zip(image.split(), planes):
            out[...] = np.asarray(plane)
        return planes if self.white == 255 else planes * np.float32(self.white / 255)


def _image(x: np.ndarray, white: float) -> Any:
    """(c, h, w) as Pillow has it."""
    x = np.rint(x if white == 255 else x * np.float32(255 / white))
    planes = [pillow().fromarray(plane) for plane in np.clip(x, 0, 255, out=x).astype(np.uint8)]
    return planes[0] if len(planes) == 1 else pillow().merge("RGB", planes)


def _moved(image: Any, matrix: np.ndarray, fill: int) -> Any:
    module, coefficients = pillow(), tuple(float(v) for v in matrix[:2].reshape(-1))
    colour = (fill,) * 3 if image.mode == "RGB" else fill
    return image.transform(image.size, module.Transform.AFFINE, coefficients, module.Resampling.BILINEAR, fillcolor=colour)
