"""The networks that training is measured with, in PyTorch, written from the papers."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.nets_more import MAKERS

SHAPES: dict[str, tuple[int, ...]] = {
    "lenet5": (64, 1, 28, 28), "mobilenet_v2": (8, 3, 160, 160), "resnet18": (8, 3, 224, 224), "unet": (2, 3, 128, 128),
    "unet groupnorm": (2, 3, 128, 128), "convnext": (8, 3, 160, 160), "depthwise 7x7": (8, 3, 112, 112),
    "resnext": (8, 3, 128, 128), "mobilenet_v3": (16, 3, 160, 160), "densenet": (8, 3, 128, 128), "1-D": (16, 1, 8000),
    "crnn": (16, 1, 32, 128), "3-D": (2, 3, 8, 64, 64), "text": (32, 64),
}  # fmt: skip
"""Batches."""
CLASSES = dict.fromkeys(SHAPES, 1000) | {
    "lenet5": 10, "unet": 4, "unet groupnorm": 4, "1-D": 35, "crnn": 37, "3-D": 100, "text": 2,
}  # fmt: skip
WORDS, LETTERS = 2500, 6


def make(name: str, width: float = 1.0, seed: int = 0) -> nn.Module:
    """A network by name; ``width`` scales the channels. Weights are seeded: convolutions' by He 2015 (over what they feed),
    linear layers' PyTorch's."""
    torch.manual_seed(seed)
    if name in MAKERS:
        net = MAKERS[name](CLASSES[name])
    else:
        makers: dict[str, Any] = {"lenet5": lenet5, "mobilenet_v2": MobileNetV2, "resnet18": ResNet18}
        net = makers.get(name, UNet)(width, CLASSES[name], **({"norm": group_norm} if name == "unet groupnorm" else {}))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return net


def lenet5(width: float, classes: int) -> nn.Module:
    """LeCun 1998, Gradient-Based Learning Applied to Document Recognition, with ReLU and max pooling."""
    a, b, c, d = (max(1, int(width * n)) for n in (6, 16, 120, 84))
    return nn.Sequential(
        nn.Conv2d(1, a, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(a, b, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(b * 25, c), nn.ReLU(), nn.Linear(c, d), nn.ReLU(), nn.Linear(d, classes),
    )  # fmt: skip


def group_norm(c: int) -> nn.Module:
    return nn.GroupNorm(8, c)


def conv_norm(
    ci: int, co: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = nn.ReLU6, norm: Any = nn.BatchNorm2d
) -> nn.Sequential:
    layers = [nn.Conv2d(ci, co, kernel, stride, kernel // 2, groups=groups, bias=False), norm(co)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Inverted(nn.Module):
    def __init__(self, ci: int, co: int, stride: int, grow: int) -> None:
        super().__init__()
        wide, self.same = ci * grow, stride == 1 and ci == co
        first = [conv_norm(ci, wide, 1)] if grow > 1 else []
        self.layers = nn.Sequential(*first, conv_norm(wide, wide, 3, stride, wide), conv_norm(wide, co, 1, act=None))

    def forward(self, x):
        return x + self.layers(x) if self.same else self.layers(x)


class MobileNetV2(nn.Sequential):
    """Sandler 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks."""

    def __init__(self, width: float, classes: int) -> None:
        def scaled(n: int) -> int:
            return max(8, int(n * width / 8) * 8)

        layers: list[nn.Module] = [conv_norm(3, scaled(32), 3, 2)]
        ci = scaled(32)
        for grow, c, n, s in (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
        ):  # fmt: skip
            for i in range(n):
                layers.append(Inverted(ci, scaled(c), s if i == 0 else 1, grow))
                ci = scaled(c)
        last = scaled(1280)
        layers += [conv_norm(ci, last, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)]
        super().__init__(*layers)


class Basic(nn.Module):
    def __init__(self, ci: int, co: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = conv_norm(ci, co, 3, stride, act=nn.ReLU), conv_norm(co, co, 3, act=None)
        self.skip = conv_norm(ci, co, 1, stride, act=None) if stride > 1 or ci != co else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.b(self.a(x)) + self.skip(x))


class ResNet18(nn.Sequential):
    """He 2016, Deep Residual Learning for Image Recognition."""

    def __init__(self, width: float, classes: int) -> None:
        c = [max(8, int(width * n)) for n in (64, 128, 256, 512)]
        layers = [conv_norm(3, c[0], 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
        ci = c[0]
        for i, co in enumerate(c):
            layers += [Basic(ci, co, 2 if i else 1), Basic(co, co, 1)]
            ci = co
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ci, classes))


class UNet(nn.Module):
    """Ronneberger 2015, U-Net, with normalisation and padded convolutions, three levels down from 32 channels."""

    def __init__(self, width: float, classes: int, norm: Any = nn.BatchNorm2d) -> None:
        super().__init__()
        c = [max(4, int(width * n)) for n in (32, 64, 128, 256)]

        def double(ci: int, co: int) -> nn.Module:
            return nn.Sequential(*(conv_norm(n, co, 3, act=nn.ReLU, norm=norm) for n in (ci, co)))

        self.down = nn.ModuleList([double(a, b) for a, b in zip([3, *c], c)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(c)][::-1])
        self.merge = nn.ModuleList([double(2 * a, a) for a in c[:-1]][::-1])
        self.pool, self.last = nn.MaxPool2d(2), nn.Conv2d(c[0], classes, 1)

    def forward(self, x):
        kept = []
        for i, layer in enumerate(self.down):
            x = layer(self.pool(x) if i else x)
            kept.append(x)
        for up, merge, skip in zip(self.up, self.merge, kept[-2::-1]):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.last(x)


def export(net: nn.Module, shape: tuple[int, ...], dynamo: bool = False) -> bytes:
    """The network as ONNX, batch normalisation kept. An input of two axes is of words."""
    net.eval()
    x, target = torch.zeros(shape, dtype=torch.int64 if len(shape) == 2 else torch.float32), io.BytesIO()
    if dynamo:
        program = torch.onnx.export(net, (x,), dynamo=True, optimize=False, verbose=False)
        assert program is not None
        program.save(target)
        return target.getvalue()
    torch.onnx.export(
        net, (x,), target, dynamo=False, input_names=["x"], output_names=["logits"], do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )  # fmt: skip
    return target.getvalue()


def batches(name: str, shape: tuple[int, ...], count: int, seed: int = 1) -> list[tuple[Any, Any]]:
    """Seeded normal images, sounds or volumes, or random words; labels: one a sample, one a pixel, or a line of letters."""
    import numpy as np

    rng = np.random.default_rng(seed)
    labels = {"crnn": (shape[0], LETTERS)}.get(name, (shape[0], *shape[2:]) if name.startswith("unet") else shape[:1])
    least = 1 if name == "crnn" else 0  # CTC's blank
    return [
        (
            rng.integers(0, WORDS, shape) if name == "text" else rng.standard_normal(shape, np.float32),
            rng.integers(least, CLASSES[name], labels),
        )
        for _ in range(count)
    ]


def save(name: str, path: Path) -> None:
    """Export to a file."""
    path.write_bytes(export(make(name), SHAPES[name]))
