"""The platform's datasets in the formats that training frameworks read.

Every converter may be called by every rank at once, and again: one of them builds, the others wait, and all get the same complete output;
it is built anew only when its inputs differ. Annotations may be in any format that the platform exports. Nothing is written below
`/in`.
"""
from ymir_exc.dataset_convert.ymir2coco import convert_ymir_to_coco as convert_ymir_to_coco
from ymir_exc.dataset_convert.ymir2mmseg import convert_rgb_to_label_id as convert_rgb_to_label_id
from ymir_exc.dataset_convert.ymir2mmseg import convert_ymir_to_mmseg as convert_ymir_to_mmseg
from ymir_exc.dataset_convert.ymir2mmseg import find_blank_area_in_dataset as find_blank_area_in_dataset
from ymir_exc.dataset_convert.ymir2mmseg import save_rgb_to_label_id as save_rgb_to_label_id
from ymir_exc.dataset_convert.ymir2mmseg import train_with_black_area_or_not as train_with_black_area_or_not
from ymir_exc.dataset_convert.ymir2yolov5 import convert_ymir_to_yolov5 as convert_ymir_to_yolov5
