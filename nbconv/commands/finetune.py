"""Teach a model new classes: from a folder of class sub-folders, a CSV file of path,label lines, or an .npz with x and y.
The classifier is replaced; a share of each class is held out, and the accuracy on it told."""

from __future__ import annotations

import argparse

from nbconv.commands._model import add_device, add_model, add_seed, add_threads, nonnegative, positive


def add(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("data", help="a folder of class sub-folders, a .csv, or an .npz")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the ONNX file to write")
    parser.add_argument("--layers", default="head", help="what trains: head (default), last:K or all")
    parser.add_argument("--epochs", type=positive, default=10, metavar="N", help="(default: 10)")
    parser.add_argument("--batch", type=positive, default=32, metavar="N", help="samples a step (default: 32)")
    parser.add_argument(
        "--lr", type=nonnegative, metavar="X", help="Adam's learning rate (default: 0.001 head, else 0.0003)"
    )
    parser.add_argument("--held-out", type=nonnegative, default=0.2, metavar="X", help="share to hold out (default: 0.2)")
    parser.add_argument("--mean", default="0", help="of pixels, one number or one a channel: 127 or 124,116,104")
    parser.add_argument("--std", default="255", help="the same (default: 255)")
    parser.add_argument("--flip", action="store_true", help="mirror half of the pictures while training")
    add_seed(parser, "the new classifier, the split and the order of samples")
    parser.add_argument("--html", metavar="FILE", help="write the confusion matrix as a page")
    parser.add_argument("--png", metavar="FILE", help="write it as a picture")
    add_threads(parser)
    add_device(parser)
    parser.epilog = """exit code: 0 all is well, 2 the model, the data or an option is wrong

examples:
  nbconv finetune m.onnx flowers/ -o flowers.onnx --mean 127 --std 128
  nbconv finetune m.onnx list.csv -o m2.onnx --layers last:3 --epochs 5 --png confusion.png"""


def run(args: argparse.Namespace) -> int:
    from nbconv.base.files import check, replace
    from nbconv.train.augment import Augment
    from nbconv.train.confusion import need_pillow
    from nbconv.train.finetune import finetune
    from nbconv.train.learner import NonFiniteLoss
    from nbconv.train.optimizers import Adam

    if args.png:
        need_pillow()
    for path in filter(None, (args.html, args.png)):
        check(path)
    try:
        report = finetune(
            args.model,
            args.data,
            args.out,
            layers=args.layers,
            epochs=args.epochs,
            batch_size=args.batch,
            optimizer=Adam(args.lr) if args.lr is not None else None,
            held_out=args.held_out,
            mean=_numbers(args.mean),
            std=_numbers(args.std),
            augment=Augment(flip=0.5) if args.flip else None,
            seed=args.seed,
            threads=args.threads,
            device=args.device,
            progress=True,
        )
    except NonFiniteLoss as error:
        raise ValueError(f"{error}; nothing is written: are --mean, --std and --lr right, and the samples finite?") from None
    print(report)
    print(f"written: {args.out}")
    if args.html:
        replace(args.html, lambda file: file.write(report.html().encode()))
        print(f"confusion matrix: {args.html}")
    if args.png:
        replace(args.png, lambda file: file.write(report.png()))
        print(f"confusion matrix: {args.png}")
    return 0


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r}: wanted numbers separated by commas") from None
