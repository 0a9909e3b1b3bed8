"""A YOLO that needs no suppression afterwards: as in YOLOv10, two TopK choose the boxes. Written for these tests."""

from __future__ import annotations

import torch
from torch import nn


class Layer(nn.Sequential):
    """Convolution, batch normalisation, SiLU."""

    def __init__(self, c: int, to: int, k: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(nn.Conv2d(c, to, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(to), nn.SiLU())


class Split(nn.Module):
    """Half of the channels go on as they are; all that is made of the others is joined to them."""

    def __init__(self, c: int, to: int, depth: int = 1) -> None:
        super().__init__()
        half = to // 2
        self.first, self.last = Layer(c, to), Layer(half * (2 + depth), to)
        self.blocks = nn.ModuleList(nn.Sequential(Layer(half, half, 3), Layer(half, half, 3)) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Pyramid(nn.Module):
    """Pools of three sizes, joined."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.first, self.last, self.pool = Layer(c, c // 2), Layer(c * 2, c), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = [self.first(x)]
        for _ in range(3):
            y.append(self.pool(y[-1]))
        return self.last(torch.cat(y, 1))


class Yolo(nn.Module):
    def __init__(self, classes: int = 20, bins: int = 16, boxes: int = 50) -> None:
        super().__init__()
        self.classes, self.bins, self.boxes = classes, bins, boxes
        self.stem = nn.Sequential(Layer(3, 16, 3, 2), Layer(16, 32, 3, 2), Split(32, 32))
        self.p3 = nn.Sequential(Layer(32, 64, 3, 2), Split(64, 64, 2))
        self.p4 = nn.Sequential(Layer(64, 128), Layer(128, 128, 3, 2, 128), Split(128, 128, 2))
        self.p5 = nn.Sequential(Layer(128, 128, 3, 2), Split(128, 128), Pyramid(128))
        self.up4, self.up3 = Split(256, 128), Split(192, 64)
        self.down4, self.join4 = Layer(64, 64, 3, 2), Split(192, 128)
        widths = (64, 128, 128)
        self.sides = nn.ModuleList(nn.Sequential(Layer(c, 64, 3), nn.Conv2d(64, 4 * bins, 1)) for c in widths)
        self.kinds = nn.ModuleList(
            nn.Sequential(Layer(c, c, 3, groups=c), Layer(c, 32), nn.Conv2d(32, classes, 1)) for c in widths
        )

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes (n, boxes, 4) by their corners, scores (n, boxes), labels (n, boxes)."""
        p3 = self.p3(self.stem(image))
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        p4 = self.up4(torch.cat([nn.functional.interpolate(p5, scale_factor=2.0), p4], 1))
        p3 = self.up3(torch.cat([nn.functional.interpolate(p4, scale_factor=2.0), p3], 1))
        p4 = self.join4(torch.cat([self.down4(p3), p4], 1))
        found = [self.decoded(i, p) for i, p in enumerate((p3, p4, p5))]
        return self.chosen(torch.cat([b for b, _ in found], 1), torch.cat([s for _, s in found], 1))

    def decoded(self, level: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Corners and scores of each cell: distances to the sides are means over bins."""
        stride = 8 * 2**level
        sides = self.sides[level](x).flatten(2).transpose(1, 2).unflatten(2, (4, self.bins)).softmax(3)
        distance = sides @ torch.arange(self.bins, dtype=torch.float32)
        rows, columns = torch.arange(x.shape[2]), torch.arange(x.shape[3])
        y, x_ = torch.meshgrid(rows + 0.5, columns + 0.5, indexing="ij")
        centre = torch.stack([x_.flatten(), y.flatten()], 1)
        corners = torch.cat([centre - distance[..., :2], centre + distance[..., 2:]], 2) * stride
        return corners, self.kinds[level](x).flatten(2).transpose(1, 2).sigmoid()

    def chosen(self, corners: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The cells whose best score is greatest, then the greatest scores of those."""
        cells = scores.amax(2).topk(self.boxes)[1].unsqueeze(2)
        corners, scores = corners.gather(1, cells.repeat(1, 1, 4)), scores.gather(1, cells.repeat(1, 1, self.classes))
        scores, index = scores.flatten(1).topk(self.boxes)
        corners = corners.gather(1, (index // self.classes).unsqueeze(2).repeat(1, 1, 4))
        return corners, scores, index % self.classes
