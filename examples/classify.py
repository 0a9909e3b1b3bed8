"""Classify a picture with an ImageNet model.

python examples/classify.py [PICTURE]
"""

import sys

import numpy as np

import nbconv
from nbconv.image import load_image
from nbconv.models import efficientnet_lite0, imagenet_classes, photograph


def main(argv: list[str]) -> None:
    model = nbconv.load(efficientnet_lite0())  # or the path of any .onnx
    picture = argv[0] if argv else photograph()
    x = load_image(picture, size=(224, 224), mean=127, std=128)  # float32 (1, 3, 224, 224)
    logits = model(x)[0]
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    names = imagenet_classes()
    for i in np.argsort(-probabilities)[:5]:
        print(f"{probabilities[i]:.3f}  {names[i]}")


if __name__ == "__main__":
    main(sys.argv[1:])
