"""What training reads: arrays, files of pictures and their labels, or any iterable of batches."""

from nbconv.train.data.arrays import Arrays, load_npz
from nbconv.train.data.base import Batch, Data, Part, whole
from nbconv.train.data.boxes import Boxed, encoded
from nbconv.train.data.coco import coco
from nbconv.train.data.foreign import as_batches, from_dataset, gathered
from nbconv.train.data.given import as_data, classified, image_splits, read_data, wanted
from nbconv.train.data.masks import mask_folder
from nbconv.train.data.order import Balance, augmented, batches, class_weighted, order, prefetch
from nbconv.train.data.pictures import Pictures, image_folder
from nbconv.train.data.splits import Splits
from nbconv.train.data.table import image_list
from nbconv.train.data.voc import voc
from nbconv.train.data.yolo import yolo_folder

__all__ = [
    "Arrays", "Balance", "Batch", "Boxed", "Data", "Part", "Pictures", "Splits", "as_batches", "as_data", "augmented",
    "batches", "class_weighted", "classified", "coco", "encoded", "from_dataset", "gathered", "image_folder", "image_list",
    "image_splits", "load_npz", "mask_folder", "order", "prefetch", "read_data", "voc", "wanted", "whole", "yolo_folder",
]  # fmt: skip
