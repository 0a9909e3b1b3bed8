"""More networks that training is measured with, in PyTorch: what is not a plain stack of convolutions and batch
normalisations. Written from the papers, narrower where the original takes minutes a step on two cores."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (n, c, h, w)."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))
        self.scale = nn.Parameter(torch.full((c,), 0.1))

    def forward(self, x):
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))) * self.scale
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Sequential):
    """Liu 2022, A ConvNet for the 2020s, of the size that timm calls atto."""

    def __init__(self, classes: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 40, 4, 4), ChannelNorm(40, eps=1e-6)]
        ci = 40
        for c, depth in ((40, 2), (80, 2), (160, 6), (320, 2)):
            if c != ci:
                layers += [ChannelNorm(ci, eps=1e-6), nn.Conv2d(ci, c, 2, 2)]
            layers += [ConvNeXtBlock(c) for _ in range(depth)]
            ci = c
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(ci), nn.Linear(ci, classes))


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def conv_mixer(classes: int, c: int = 128, depth: int = 8) -> nn.Module:
    """Trockman 2022, Patches Are All You Need: depthwise convolutions of 7×7."""
    layers: list[nn.Module] = [nn.Conv2d(3, c, 7, 7), nn.GELU(), nn.BatchNorm2d(c)]
    for _ in range(depth):
        mixed = Residual(nn.Conv2d(c, c, 7, groups=c, padding=3), nn.GELU(), nn.BatchNorm2d(c))
        layers += [mixed, nn.Conv2d(c, c, 1), nn.GELU(), nn.BatchNorm2d(c)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes))


def conv(ci: int, co: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = nn.ReLU) -> nn.Sequential:
    layers = [nn.Conv2d(ci, co, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(co)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Bottleneck(nn.Module):
    def __init__(self, ci: int, inner: int, co: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(ci, inner, 1), conv(inner, inner, 3, stride, 32), conv(inner, co, 1, act=None))
        self.skip = conv(ci, co, 1, stride, act=None) if stride > 1 or ci != co else nn.Identity()

    def forward(self, x):
        return nn.functional.relu(self.layers(x) + self.skip(x))


def resnext(classes: int) -> nn.Module:
    """Xie 2017, Aggregated Residual Transformations: 32 groups of 4, two blocks a stage."""
    layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    ci = 64
    for i, inner in enumerate((128, 256, 512, 1024)):
        for k in range(2):
            layers.append(Bottleneck(ci, inner, 2 * inner, 2 if i and not k else 1))
            ci = 2 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ci, classes))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, c: int) -> None:
        super().__init__()
        inner = max(8, c // 4 // 8 * 8)
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, inner, 1), nn.ReLU(), nn.Conv2d(inner, c, 1), nn.Hardsigmoid()
        )

    def forward(self, x):
        return x * self.layers(x)


def mobilenet_v3(classes: int) -> nn.Module:
    """Howard 2019, Searching for MobileNetV3: the small one."""
    layers: list[nn.Module] = [conv(3, 16, 3, 2, act=nn.Hardswish)]
    ci = 16
    for kernel, wide, co, gate, act, stride in (
        (3, 16, 16, True, nn.ReLU, 2), (3, 72, 24, False, nn.ReLU, 2), (3, 88, 24, False, nn.ReLU, 1),
        (5, 96, 40, True, nn.Hardswish, 2), (5, 240, 40, True, nn.Hardswish, 1), (5, 240, 40, True, nn.Hardswish, 1),
        (5, 120, 48, True, nn.Hardswish, 1), (5, 144, 48, True, nn.Hardswish, 1), (5, 288, 96, True, nn.Hardswish, 2),
        (5, 576, 96, True, nn.Hardswish, 1), (5, 576, 96, True, nn.Hardswish, 1),
    ):  # fmt: skip
        block = [conv(ci, wide, 1, act=act)] if wide != ci else []
        block += [conv(wide, wide, kernel, stride, wide, act), *([Gate(wide)] if gate else []), conv(wide, co, 1, act=None)]
        layers.append((Residual if stride == 1 and ci == co else nn.Sequential)(*block))
        ci = co
    layers += [conv(96, 576, 1, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(576, 1024)]
    return nn.Sequential(*layers, nn.Hardswish(), nn.Linear(1024, classes))


class Dense(nn.Module):
    def __init__(self, ci: int, grow: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(ci), nn.ReLU(), nn.Conv2d(ci, 4 * grow, 1, bias=False), nn.BatchNorm2d(4 * grow), nn.ReLU(),
            nn.Conv2d(4 * grow, grow, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x):
        return torch.cat([x, self.layers(x)], 1)


def densenet(classes: int, grow: int = 32) -> nn.Module:
    """Huang 2017, Densely Connected Convolutional Networks, with blocks of 4, 8, 12 and 8 layers."""
    layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    c = 64
    for i, depth in enumerate((4, 8, 12, 8)):
        if i:
            layers += [nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c // 2, 1, bias=False), nn.AvgPool2d(2)]
            c //= 2
        for _ in range(depth):
            layers.append(Dense(c, grow))
            c += grow
    return nn.Sequential(*layers, nn.BatchNorm2d(c), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes))


def m5(classes: int) -> nn.Module:
    """Dai 2016, Very Deep Convolutional Neural Networks for Raw Waveforms: M5."""
    layers: list[nn.Module] = []
    ci = 1
    for co, kernel, stride in ((128, 80, 4), (128, 3, 1), (256, 3, 1), (512, 3, 1)):
        layers += [nn.Conv1d(ci, co, kernel, stride), nn.BatchNorm1d(co), nn.ReLU(), nn.MaxPool1d(4)]
        ci = co
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(ci, classes))


class CRNN(nn.Module):
    """Shi 2015, An End-to-End Trainable Neural Network for Image-based Sequence Recognition, half as wide. The result is
    (T, n, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        a, b, c, d = 32, 64, 128, 256
        self.layers = nn.Sequential(
            conv(1, a, 3), nn.MaxPool2d(2), conv(a, b, 3), nn.MaxPool2d(2), conv(b, c, 3), conv(c, c, 3),
            nn.MaxPool2d((2, 1)), conv(c, d, 3), conv(d, d, 3), nn.MaxPool2d((2, 1)), nn.Conv2d(d, d, (2, 1)), nn.ReLU(),
        )  # fmt: skip
        self.recurrent, self.last = nn.LSTM(d, 128, num_layers=2, bidirectional=True), nn.Linear(256, classes)

    def forward(self, x):
        y = self.layers(x).squeeze(2).permute(2, 0, 1)
        return self.last(self.recurrent(y)[0])


class Basic3d(nn.Module):
    def __init__(self, ci: int, co: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(ci, co, 3, stride, 1, bias=False), nn.BatchNorm3d(co), nn.ReLU(),
            nn.Conv3d(co, co, 3, 1, 1, bias=False), nn.BatchNorm3d(co),
        )  # fmt: skip
        same = stride == 1 and ci == co
        self.skip = nn.Identity() if same else nn.Sequential(nn.Conv3d(ci, co, 1, stride, bias=False), nn.BatchNorm3d(co))

    def forward(self, x):
        return nn.functional.relu(self.layers(x) + self.skip(x))


def r3d(classes: int) -> nn.Module:
    """Tran 2018, A Closer Look at Spatiotemporal Convolutions: R3D, a block a stage, half as wide."""
    layers: list[nn.Module] = [nn.Conv3d(3, 32, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(32), nn.ReLU()]
    ci = 32
    for i, co in enumerate((32, 64, 128, 256)):
        layers.append(Basic3d(ci, co, 2 if i else 1))
        ci = co
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(ci, classes))


class TextCNN(nn.Module):
    """Kim 2014, Convolutional Neural Networks for Sentence Classification."""

    def __init__(self, classes: int, words: int = 2500, c: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, c)
        self.layers = nn.ModuleList([nn.Conv1d(c, 100, k, padding=k // 2) for k in (3, 4, 5)])
        self.last = nn.Linear(300, classes)

    def forward(self, x):
        y = self.embedding(x).transpose(1, 2)
        return self.last(torch.cat([layer(y).relu().amax(2) for layer in self.layers], 1))


MAKERS: dict[str, Any] = {
    "convnext": ConvNeXt, "depthwise 7x7": conv_mixer, "resnext": resnext, "mobilenet_v3": mobilenet_v3,
    "densenet": densenet, "1-D": m5, "crnn": CRNN, "3-D": r3d, "text": TextCNN,
}  # fmt: skip
