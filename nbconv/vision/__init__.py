"""What stands before and behind a vision model: letterboxing, boxes of detectors, text of recognisers; NumPy, and
the kernel of NonMaxSuppression.

A box is (left, top, right, bottom) in pixels.
"""

from nbconv.base.image import load_image as load_image
from nbconv.vision.boxes import Detections as Detections
from nbconv.vision.boxes import Letterbox as Letterbox
from nbconv.vision.boxes import iou as iou
from nbconv.vision.boxes import letterbox as letterbox
from nbconv.vision.boxes import nms as nms
from nbconv.vision.detect import anchor_boxes as anchor_boxes
from nbconv.vision.detect import blazeface as blazeface
from nbconv.vision.detect import blazeface_anchors as blazeface_anchors
from nbconv.vision.detect import ssd as ssd
from nbconv.vision.detect import yolo as yolo
from nbconv.vision.text import Text as Text
from nbconv.vision.text import ctc as ctc
