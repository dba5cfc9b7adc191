"""Active learning: how much the label of an image would teach the model. Scores of a program's own predictions; needs numpy, no framework.

A higher score means more worth labelling, which is the order that `result_writer.write_mining_result` writes. Take an algorithm by its
name, as config.yaml gives it (`scorer`), or call what it is made of:

- `scores`: `random`; of boxes `least_confidence`, `margin`, `entropy`, `class_balanced`; `aggregate` makes the score of an image of
  those of its boxes; `aldd` scores maps of probabilities.
- `consistency`: `cald`, what becomes of the boxes when the image is changed a little.
- `diversity`: which images differ from each other and from what is labelled: `k_center`, `hybrid`, `select_by_class`.

Everywhere `kind` tells what the probabilities of a box's classes are: "softmax", one of them is right and they sum to 1 (a column for the
background counts as a class), or "sigmoid", each class is a yes or no of its own. Arrays may be anything that numpy reads: lists, arrays,
tensors on the CPU. `[]` is no boxes. Results are float64; the order of boxes does not matter.

Raises:
    ArgumentError: An array has the wrong shape, or a probability is outside 0..1. Every function below raises it.
    NanError: A value is NaN or infinite. Likewise.
"""
try:
    import numpy as _  # noqa: F401
except ModuleNotFoundError as e:
    if e.name != "numpy":
        raise
    raise ModuleNotFoundError("ymir_exc.mining needs numpy, which is not installed: pip install numpy", name="numpy") from None

from ymir_exc.mining.algorithms import Scorer as Scorer
from ymir_exc.mining.algorithms import scorer as scorer
from ymir_exc.mining.algorithms import scorers as scorers
from ymir_exc.mining.consistency import cald as cald
from ymir_exc.mining.consistency import class_confidences as class_confidences
from ymir_exc.mining.diversity import Selection as Selection
from ymir_exc.mining.diversity import hybrid as hybrid
from ymir_exc.mining.diversity import k_center as k_center
from ymir_exc.mining.diversity import select_by_class as select_by_class
from ymir_exc.mining.scores import aggregate as aggregate
from ymir_exc.mining.scores import aldd as aldd
from ymir_exc.mining.scores import class_balanced as class_balanced
from ymir_exc.mining.scores import class_weights as class_weights
from ymir_exc.mining.scores import entropy as entropy
from ymir_exc.mining.scores import least_confidence as least_confidence
from ymir_exc.mining.scores import margin as margin
from ymir_exc.mining.scores import random as random
