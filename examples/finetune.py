"""Teach an ImageNet model new classes, and write it as ONNX.

    python examples/finetune.py OUT.onnx [FOLDER] [--epochs N]

FOLDER has a sub-folder of pictures for each class. Without one, the model learns the bundled drawings of emoji.
"""

import argparse

import nbconv
from nbconv.models import efficientnet_lite0, emoji


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    if args.folder:
        data = nbconv.image_folder(args.folder, size=(224, 224), mean=127, std=128)
    else:
        drawings = emoji()
        data = nbconv.Arrays(drawings.x, drawings.y, size=(224, 224), mean=127, std=128, classes=drawings.classes)
    report = nbconv.finetune(efficientnet_lite0(), data, out=args.out, epochs=args.epochs)
    print(f"accuracy on held-out pictures: {report.before:.2f} before, {report.after:.2f} after")
    print(f"{args.out}: {len(report.classes)} classes: {', '.join(report.classes)}")


if __name__ == "__main__":
    main()
