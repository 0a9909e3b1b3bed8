"""What stands before and behind a vision model: letterboxing, boxes of detectors, text of recognisers, what detectors are
taught, and how good both are; NumPy, and the kernel of NonMaxSuppression.

A box is (left, top, right, bottom) in pixels.
"""

from nbconv.base.image import load_image as load_image
from nbconv.vision.anchors import Anchors as Anchors
from nbconv.vision.anchors import anchor_shapes as anchor_shapes
from nbconv.vision.assign import fcos_points as fcos_points
from nbconv.vision.assign import fcos_targets as fcos_targets
from nbconv.vision.assign import ssd_anchors as ssd_anchors
from nbconv.vision.assign import ssd_targets as ssd_targets
from nbconv.vision.boxes import Detections as Detections
from nbconv.vision.boxes import Letterbox as Letterbox
from nbconv.vision.boxes import iou as iou
from nbconv.vision.boxes import letterbox as letterbox
from nbconv.vision.boxes import nms as nms
from nbconv.vision.detect import anchor_boxes as anchor_boxes
from nbconv.vision.detect import best_boxes as best_boxes
from nbconv.vision.detect import blazeface as blazeface
from nbconv.vision.detect import blazeface_anchors as blazeface_anchors
from nbconv.vision.detect import fcos as fcos
from nbconv.vision.detect import ssd as ssd
from nbconv.vision.detect import yolo as yolo
from nbconv.vision.evaluate import average_precision as average_precision
from nbconv.vision.evaluate import mean_average_precision as mean_average_precision
from nbconv.vision.text import Text as Text
from nbconv.vision.text import character_accuracy as character_accuracy
from nbconv.vision.text import ctc as ctc
from nbconv.vision.text import edit_distance as edit_distance
