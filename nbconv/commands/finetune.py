"""Teach a model new classes, masks, boxes or numbers: from a folder of class sub-folders or of images/ and masks/, a CSV
file of path,label lines, an .npz with x and y, boxes as COCO, VOC or YOLO have them. The head is replaced; a share of each
class is held out, and how good the model is on it told. What is written says how its pictures are made and what its
classes are."""

from __future__ import annotations

import argparse
from typing import Any

from nbconv.commands import _model
from nbconv.commands._options import Options

OPTIMIZERS = {
    "adam": "Adam",
    "adamw": "AdamW",
    "sgd": "SGD",
    "rmsprop": "RMSProp",
    "adagrad": "AdaGrad",
    "adadelta": "AdaDelta",
}
LOSSES = (
    "cross_entropy", "focal", "dice", "multiclass_hinge", "binary_cross_entropy", "binary_focal", "mse", "l1", "huber",
)  # fmt: skip
SCHEDULES = ("constant", "cosine", "warm_up_cosine", "step", "exponential", "one_cycle", "plateau")


def add(parser: argparse.ArgumentParser) -> None:
    options = Options(parser)
    options.add("model", nargs="?", help="an ONNX or TFLite file")
    options.add("data", nargs="?", help="a folder, a .csv, an .npz, or COCO's .json")
    options.add("-o", "--out", metavar="FILE", help="the ONNX file to write")
    parser.add_argument("--config", metavar="FILE", help="a TOML file of options (model, data and out, too); those here win")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would train, the memory and the time of an epoch; train nothing"
    )
    what = parser.add_argument_group("what is learnt")
    options.add(
        "--task", choices=("auto", "classify", "segment", "detect", "regress"), default="auto", metavar="NAME", group=what,
        help="classify, segment, detect or regress (default: what the data are of)",
    )  # fmt: skip
    options.add(
        "--layers", "--trainable", default="head", group=what,
        help="what trains: head (default), last:K, bias, norm, all, auto (as --memory-mb and --step-ms allow), or globs of "
        "names separated by commas",
    )  # fmt: skip
    options.add(
        "--adapters", type=_model.positive, metavar="RANK", group=what,
        help="train a change of this rank of each weight in place of it (but the head's): less state",
    )  # fmt: skip
    options.add(
        "--widen", type=_model.positive, metavar="N", group=what,
        help="let the new head read the means of N layers before it, too: 16 often learn more at little cost",
    )  # fmt: skip
    options.add(
        "--loss", choices=LOSSES, metavar="NAME", group=what,
        help=f"{', '.join(LOSSES)} (default: cross_entropy; mse to regress)",
    )  # fmt: skip
    options.add("--grids", metavar="NAMES", group=what, help="features to put a detector on (default: found)")
    options.add("--repair", action="store_true", group=what, help="give convolutions with folded batch norms a scale again")
    how = parser.add_argument_group("how")
    options.add("--epochs", type=_model.positive, default=10, metavar="N", group=how, help="(default: 10)")
    options.add("--batch", type=_model.positive, default=32, metavar="N", group=how, help="samples a step (default: 32)")
    options.add(
        "--optimizer", choices=tuple(OPTIMIZERS), default="adam", metavar="NAME", group=how,
        help=f"{', '.join(OPTIMIZERS)} (default: adam)",
    )  # fmt: skip
    options.add(
        "--lr", type=_model.nonnegative, metavar="X", group=how,
        help="learning rate (of adam 0.001 for boxes and for head, bias, norm, auto, else 0.0003; of others their own)",
    )  # fmt: skip
    options.add(
        "--schedule", choices=SCHEDULES, metavar="NAME", group=how,
        help=f"of the learning rate, over the epochs: {', '.join(SCHEDULES)} (default: constant)",
    )  # fmt: skip
    options.add(
        "--patience", type=_model.positive, metavar="N", group=how,
        help="end when the held-out loss was not lower for N epochs, with the weights of the best",
    )  # fmt: skip
    options.add(
        "--resume", metavar="FILE", group=how, help="a checkpoint: written after each epoch, gone on from where it is there"
    )
    options.add("--memory-mb", type=_model.nonnegative, metavar="X", group=how, help="most memory a step may take")
    options.add("--step-ms", type=_model.nonnegative, metavar="X", group=how, help="with auto, most time a step may take")
    options.add(
        "--accumulate", type=_model.positive, default=1, metavar="N", group=how,
        help="batches a step takes, in little more memory than one of them (default: 1)",
    )  # fmt: skip
    options.add("--clip-norm", type=_model.nonnegative, metavar="X", group=how, help="most norm of all gradients together")
    options.add("--clip-value", type=_model.nonnegative, metavar="X", group=how, help="most size of each gradient")
    options.add(
        "--ema", type=_model.nonnegative, metavar="X", group=how,
        help="average the weights, of which each step keeps this share (0.999); the average is written",
    )  # fmt: skip
    options.add(
        "--metrics", metavar="NAMES", group=how,
        help="what to tell of each epoch, with commas: accuracy, precision, recall, f1, iou, top5, auc, mae, rmse, r2",
    )  # fmt: skip
    _model.add_seed(parser, "the new classifier, the split and the order of samples")
    data = parser.add_argument_group("data")
    options.add("--held-out", type=_model.nonnegative, default=0.2, metavar="X", group=data, help="(default: 0.2)")
    options.add("--size", type=_size, metavar="HxW", group=data, help="of pictures (default: the model's)")
    options.add("--mean", group=data, help="of pixels, one number or one a channel: 127 or 124,116,104")
    options.add("--std", group=data, help="the same (default: what the model says, else 255)")
    options.add("--channels", type=int, choices=(1, 3), group=data, help="3, or 1 for grey (default: the model's)")
    options.add("--layout", choices=("auto", "NCHW", "NHWC"), group=data, help="(default: the model's)")
    options.add(
        "--balance", type=_model.nonnegative, default=0.0, metavar="X", group=data,
        help="1: each class has an equal share of every batch; 0 (default): its own",
    )  # fmt: skip
    options.add("--flip", action="store_true", group=data, help="mirror half of the pictures while training")
    options.add("--html", metavar="FILE", help="write the confusion matrix as a page")
    options.add("--png", metavar="FILE", help="write it as a picture")
    _model.add_threads(parser)
    _model.add_device(parser)
    parser.epilog = """exit code: 0 all is well, 2 the model, the data or an option is wrong

examples:
  nbconv finetune m.onnx flowers/ -o flowers.onnx --mean 127 --std 128
  nbconv finetune m.onnx list.csv -o m2.onnx --layers last:3 --epochs 5 --png confusion.png
  nbconv finetune m.onnx coco/ -o finder.onnx --layers all --lr 0.001 --schedule one_cycle
  nbconv finetune m.onnx flowers/ -o m2.onnx --schedule cosine --patience 5 --resume c.safetensors
  nbconv finetune --config tune.toml --dry-run"""


def run(args: argparse.Namespace) -> int:
    from nbconv.base.files import check, replace
    from nbconv.train.augment import Augment
    from nbconv.train.confusion import Needed, need_pillow
    from nbconv.train.finetune import finetune
    from nbconv.train.learner import NonFiniteLoss

    args = args.options.chosen(args, args.config)
    wanted = ("model", "data") if args.dry_run else ("model", "data", "out")
    missing = [name for name in wanted if not getattr(args, name)]
    if missing:
        raise ValueError(f"the {' and the '.join(missing)} are not given: nbconv finetune MODEL DATA -o FILE")
    augment = Augment(flip=0.5) if args.flip else None
    if args.dry_run:
        return _dry_run(args, augment)
    if args.png:
        need_pillow()
    for path in filter(None, (args.html, args.png)):
        check(path)
    try:
        report = finetune(
            args.model, args.data, args.out, **_prepared(args), epochs=args.epochs, batch_size=args.batch, augment=augment,
            balance=args.balance, patience=args.patience, resume=args.resume, progress=True, metrics=args.metrics,
            clip_norm=args.clip_norm, clip_value=args.clip_value, callbacks=[Needed()] if args.html or args.png else (),
        )  # fmt: skip
    except NonFiniteLoss as error:
        raise ValueError(f"{error}; nothing is written: are --mean, --std and --lr right, and the samples finite?") from None
    if report.chosen is not None:
        print(f"trained {report.chosen}")
    print(report)
    print(f"written: {args.out}")
    if args.html:
        replace(args.html, lambda file: file.write(report.html().encode()))
        print(f"confusion matrix: {args.html}")
    if args.png:
        replace(args.png, lambda file: file.write(report.png()))
        print(f"confusion matrix: {args.png}")
    return 0


def _prepared(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `nbconv.train.tuning.prepared`."""
    layers = args.layers.split(",") if "," in args.layers or "*" in args.layers else args.layers
    return {
        "task": args.task,
        "layers": layers,
        "widen": args.widen or 0,
        "adapters": args.adapters,
        "loss": args.loss,
        "grids": args.grids.split(",") if args.grids else (),
        "repair": bool(args.repair),
        "optimizer": _optimizer(args),
        "schedule": args.schedule,
        "memory_mb": args.memory_mb,
        "ema": args.ema,
        "accumulate": args.accumulate,
        "step_ms": args.step_ms,
        "held_out": args.held_out,
        "size": args.size,
        "mean": None if args.mean is None else _numbers(args.mean),
        "std": None if args.std is None else _numbers(args.std),
        "channels": args.channels,
        "layout": args.layout,
        "seed": args.seed,
        "threads": args.threads,
        "device": args.device,
    }


def _optimizer(args: argparse.Namespace) -> Any:
    if args.optimizer == "adam" and args.lr is None:
        return None
    from nbconv.train import optimizers

    usual = {} if args.lr is None else {"lr": args.lr}
    return getattr(optimizers, OPTIMIZERS[args.optimizer])(**usual)


def _dry_run(args: argparse.Namespace, augment: Any) -> int:
    from nbconv.train.rehearsal import rehearse
    from nbconv.train.tuning import prepared

    tuning = prepared(args.model, args.data, **_prepared(args))
    told = rehearse(tuning.trainer, tuning.train, tuning.held, args.batch, augment)
    if tuning.trainer.chosen is not None:
        print(f"chosen   {tuning.trainer.chosen}")
    print(told)
    print("nothing was trained or written")
    return 0


def _size(text: str) -> tuple[int, int]:
    from nbconv.commands.run import _size as size

    return size(text)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r}: wanted numbers separated by commas") from None
