"""What the platform does with an ``out/`` folder, as assertions: a second reading of the contract, to judge writers by.

Nothing here comes from ``ymir_exc``: every rule is taken from the contract alone, so a writer and this reader can only
agree by both being right. It is stricter than the platform in one way: what the platform takes but silently changes to
the user's loss (an upper-case ``TP``, a stage hidden by the old layout, an annotation that is skipped) is refused here.
What it takes and changes without loss (a metric given as a numeric string) is accepted and told in ``notices``.

    accept_training(out)                            contract 6.1 to 6.4, packing and unpacking included
    accept_mining(out, candidates)                  contract 7.1
    accept_detection(out, candidates, class_names)  contract 7.2
    accept_segmentation(out, ...)                   contract 7.3
    parse_monitor(text), accept_monitor(out, ...)   contract 8.1, 8.2 and 9
    accept_monitor_updates(texts)                   contract 8.1, 8.2: what a poller sees over time
    accept_tensorboard(out)                         contract 8.4

Each returns what it read and raises `ContractViolation` at the first rule that is broken.
"""

from __future__ import annotations

from .inference_rules import accept_detection, accept_mining, accept_segmentation
from .monitor_rules import EXECUTOR_CODES, MonitorRecord, accept_monitor, accept_monitor_updates, parse_monitor
from .reading import ContractViolation
from .tensorboard_rules import accept_tensorboard, masked_crc32c
from .training_rules import Stage, TrainingResult, accept_training

__all__ = [
    "EXECUTOR_CODES",
    "ContractViolation",
    "MonitorRecord",
    "Stage",
    "TrainingResult",
    "accept_detection",
    "accept_mining",
    "accept_monitor",
    "accept_monitor_updates",
    "accept_segmentation",
    "accept_tensorboard",
    "accept_training",
    "masked_crc32c",
    "parse_monitor",
]
