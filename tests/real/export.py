"""Makes the skeletons in this folder: `python -m tests.real.export [NAME …]`, all without a name.

It needs torch, torchvision, timm and transformers, which tests do not: `pip install torch torchvision timm transformers`.
A network is built with random weights, torch.onnx exports it, `skeleton.pack` takes out the weights, and `calibrated`
scales the recipes for others. It needs onnxruntime, too.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from torch import nn

from tests.real import skeleton
from tests.real.calibrate import calibrated
from tests.real.pictures import picture
from tests.real.yolo import Yolo

FOLDER = Path(__file__).parent


class Network(NamedTuple):
    build: Callable[[], nn.Module]
    example: tuple[int, ...] = (1, 3, 96, 96)
    dynamic: dict[int, str] = {0: "batch"}
    """Axes of the inputs whose sizes stay open."""
    inputs: tuple[str, ...] = ("image",)
    dynamo: bool = False
    """By torch.export, the newer way, whose graphs differ."""
    gains: dict[str, float] = {}
    """Deviations of layers' results other than 1, by a part of the weights' name."""
    detector: bool = False
    """torchvision's: it takes a list of pictures, of three axes each."""


def torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision.models as zoo

        return zoo.get_model(name, weights=None, **options)

    return build


def detector(name: str, **options: Any) -> Network:
    """Thresholds are among the options: scores of random weights are near one another."""
    build = torchvision(name, weights_backbone=None, **options)
    return Network(build, (3, 128, 160), {1: "height", 2: "width"}, detector=True)


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, **options)

    return build


class Crnn(nn.Module):
    """A recogniser of text: convolutions, an LSTM in both directions over the columns, scores of characters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c, to, pool in ((1, 16, (2, 2)), (16, 32, (2, 2)), (32, 48, (2, 1)), (48, 64, (4, 1))):
            layers += [nn.Conv2d(c, to, 3, padding=1), nn.BatchNorm2d(to), nn.ReLU(), nn.MaxPool2d(pool)]
        self.features = nn.Sequential(*layers)
        self.lstm = nn.LSTM(64, 48, num_layers=2, bidirectional=True)
        self.scores = nn.Linear(96, 40)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        sequence, _ = self.lstm(self.features(image).squeeze(2).permute(2, 0, 1))
        return self.scores(sequence).log_softmax(2)


class RtDetr(nn.Module):
    """transformers' RT-DETR v2, small, and what its processor does after it: boxes, scores, labels."""

    def __init__(self) -> None:
        from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

        super().__init__()
        widths = [32, 48, 64, 96]
        stages = ["stage2", "stage3", "stage4"]
        backbone = RTDetrResNetConfig(
            embedding_size=32, hidden_sizes=widths, depths=[2, 2, 2, 2], layer_type="basic", out_features=stages
        )
        config = RTDetrV2Config(
            backbone_config=backbone,
            encoder_in_channels=widths[1:],
            encoder_hidden_dim=48,
            encoder_ffn_dim=64,
            encoder_attention_heads=4,
            hidden_expansion=0.5,
            d_model=48,
            num_queries=40,
            decoder_in_channels=[48, 48, 48],
            decoder_ffn_dim=64,
            decoder_layers=2,
            decoder_attention_heads=4,
            num_labels=12,
            num_denoising=0,
        )
        self.network = RTDetrV2ForObjectDetection(config)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found = self.network(pixel_values=image)
        scores, index = found.logits.sigmoid().flatten(1).topk(40)
        boxes = found.pred_boxes.gather(1, (index // 12).unsqueeze(2).repeat(1, 1, 4))
        return boxes, scores, index % 12


def vary(module: nn.Module) -> None:
    """As though trained: no batch normalisation is the identity, no table is 0."""
    for p in module.parameters():
        if p.ndim > 1 and not p.any():
            p.normal_(0, 0.05)
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.weight.uniform_(0.7, 1.3)
            m.bias.normal_(0, 0.2)
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.7, 1.3)


def exported(network: Network) -> tuple[onnx.ModelProto, list[torch.Tensor]]:
    """The model, and the inputs it was traced with."""
    torch.manual_seed(0)
    module = network.build().eval()
    with torch.no_grad():
        vary(module)
    shape = network.example
    if network.dynamo:
        shape = (2, *shape[1:])  # a size of 1 would not stay open
    inputs = [torch.rand(shape) if network.detector else torch.randn(shape) for _ in network.inputs]
    example: Any = (inputs,) if network.detector else tuple(inputs)
    options: dict[str, Any] = {"opset_version": 20 if network.dynamo else 17, "dynamo": network.dynamo}
    if network.dynamo:
        dims = {axis: torch.export.Dim(name) for axis, name in network.dynamic.items()}
        options["dynamic_shapes"] = tuple(dims for _ in network.inputs)
    else:
        options["dynamic_axes"] = dict.fromkeys(network.inputs, network.dynamic)
    to = io.BytesIO()
    torch.onnx.export(module, example, to, input_names=list(network.inputs), **options)
    return onnx.load_from_string(to.getvalue()), inputs


CALM = {"flow_head.conv2": 0.005, "convcorr": 0.1, "update_block": 0.2}
"""As trained, the steps of RAFT converge; of random weights they would multiply each rounding."""

NETWORKS: dict[str, Network] = {
    "ssdlite": detector("ssdlite320_mobilenet_v3_large", score_thresh=0.97),
    "retinanet": detector("retinanet_resnet50_fpn", min_size=128, max_size=192, score_thresh=0.2),
    "fcos": detector("fcos_resnet50_fpn", min_size=128, max_size=192, score_thresh=0.3),
    "fasterrcnn": detector("fasterrcnn_mobilenet_v3_large_320_fpn", box_score_thresh=0.07),
    "keypointrcnn": detector(
        "keypointrcnn_resnet50_fpn", min_size=128, max_size=192, box_score_thresh=0.8, rpn_post_nms_top_n_test=200
    ),
    "rt_detr_v2": Network(RtDetr, (1, 3, 96, 128), {0: "batch", 2: "height", 3: "width"}),
    "yolo": Network(Yolo, (1, 3, 96, 128), {0: "batch", 2: "height", 3: "width"}, gains={"kinds": 0.3}),
    "crnn": Network(Crnn, (1, 1, 32, 96), {0: "batch", 3: "width"}),
    "swin_t": Network(torchvision("swin_t")),
    "maxvit_t": Network(torchvision("maxvit_t"), (1, 3, 224, 224)),
    "r3d_18": Network(torchvision("r3d_18"), (1, 3, 8, 48, 48), {0: "batch", 2: "frames", 3: "height", 4: "width"}),
    "deeplabv3": Network(
        torchvision("deeplabv3_mobilenet_v3_large", weights_backbone=None), dynamic={0: "batch", 2: "height", 3: "width"}
    ),
    "raft_small": Network(
        torchvision("raft_small"),
        (1, 3, 128, 128),
        inputs=("first", "second"),
        gains=CALM,
    ),
    "levit_128s": Network(timm("levit_128s"), (1, 3, 224, 224)),
    "edgenext_xx_small": Network(timm("edgenext_xx_small"), dynamic={0: "batch", 2: "height", 3: "width"}, dynamo=True),
}


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    for name in names or NETWORKS:
        network = NETWORKS[name]
        model, inputs = exported(network)
        data, carried = skeleton.pack(model)
        feeds = {name: picture(x.shape, seed) for seed, (name, x) in enumerate(zip(network.inputs, inputs))}
        data = calibrated(data, feeds, network.gains)
        (FOLDER / f"{name}.onnx.xz").write_bytes(data)
        print(f"{name}: {len(data) / 1024:.0f} KiB", *carried, sep="\n  ", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
