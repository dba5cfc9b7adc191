"""The candidates of mining and inference, shared among processes, and taken up again after a kill.

    with InferResultWriter(class_names) as results:
        for path in sharding.candidates(results):
            results.add(path, boxes, scores, class_ids)

The same program is right for one process and for several (`RANK` and `WORLD_SIZE` in the environment, as torchrun sets them). The index
is cut into blocks; block b belongs to rank b % world_size. As soon as all images of a block have their results, these are put into a file
of their own, a part, in a hidden folder of `/out`. At the end rank 0 waits for the parts of all ranks and makes the one result file of
them, in the order of the index, so that it does not depend on the number of processes. After a kill the next start, with any number of
processes, leaves out the blocks that have their parts. Ranks see each other by files alone: none waits for another but rank 0 at the end.
"""
from __future__ import annotations

import os
from numbers import Real
from typing import Iterator, Optional

from ymir_exc import hosts, monitor
from ymir_exc.env import current_env
from ymir_exc.errors import ArgumentError, ConfigError
from ymir_exc.result_writer._sharing import Sharing
from ymir_exc.sharding._ranks import rank_and_world_size as rank_and_world_size
from ymir_exc.sharding._share import OneShare

__all__ = ["candidates", "rank_and_world_size"]


def candidates(*writers: Sharing, block_size: Optional[int] = None, order: str = "tmi", max_skipped_ratio: float = 1.0) -> Iterator[str]:
    """This process's share of the candidate list, without what an earlier start has done; progress is reported as results come.

        with MiningResultWriter() as ranking, InferResultWriter(class_names) as results:
            for path in sharding.candidates(ranking, results):
                ...

    Paths may be taken ahead of their results, by another thread too, and results may come in any order. Each path needs one result in
    each of the writers, or a `skip(path)`. At the end of the with-block rank 0 waits for the others and writes; theirs ends at once. From
    the first call on SIGTERM is heeded between two images, see `monitor.should_stop`.

    Args:
        writers: A MiningResultWriter, an InferResultWriter, or both, in their with-blocks. With both, one pass is the whole of the
            progress; else it is the task's part of it, see `monitor.task_percent`.
        block_size: Images in a block: so many does a kill cost each process, at most, if results come in order. By default 500, fewer of
            a list of less than 128,000. Another one than that of an earlier start has all done again.
        order: 'tmi' (mining first) or 'tim' (inference first), for containers that do one after the other.
        max_skipped_ratio: Fraction of all candidates that may be skipped, 0..1; one always may, unless it is all of them. Those that other
            processes or earlier starts have skipped count too; an image counts once, in how many writers ever.

    Returns:
        An iterator of paths.

    Raises:
        Stopped: The platform asked the program to stop; what is done stays for the next start. From the iterator, or when a result is
            added.
        ResultError: Two candidates have one name. When a result is added: it is the second one of its image, or the image is of another
            share. At the end: an image has no result.
        ProgramError: At the end, on rank 0: another rank failed or is gone; it has the reason and the return code.
        ImageError: Too many images were skipped: of this process as soon as they are, of all processes together at the end, on rank 0. No
            result is written; the next start tries these images again.
        DatasetError: As `dataset_reader.item_paths`; or the list got longer or shorter meanwhile, and no result is written.
        StorageError: A part cannot be written; the earlier ones stay.
        ConfigError: RANK and WORLD_SIZE do not fit together; or the job has several hosts, whose processes could not see each other.
    """
    tasks = [getattr(writer, "task", "") for writer in writers if isinstance(writer, Sharing)]
    if not tasks or len(tasks) != len(writers) or len(set(tasks)) != len(tasks):
        raise ArgumentError(f"candidates() wants a MiningResultWriter, an InferResultWriter or both, not {writers!r:.200}")
    if block_size is not None and (not isinstance(block_size, int) or block_size < 1):
        raise ArgumentError(f"block_size is {block_size!r}: a number of images is wanted")
    if not isinstance(max_skipped_ratio, Real) or not 0 <= max_skipped_ratio <= 1:
        raise ArgumentError(f"max_skipped_ratio is {max_skipped_ratio!r:.80}: a fraction is wanted, 0..1")
    if any(writer._share is not None for writer in writers):
        raise ArgumentError("a writer has its candidates already", hint="call candidates() once in each with-block")
    _check_one_host()
    monitor.task_percent(current_env(), tasks[0], 0.0, order)    # refuses an unknown order
    return OneShare(writers, block_size, order, float(max_skipped_ratio)).paths()


def _check_one_host() -> None:
    """A job on several hosts has an `/out` and locks on each; a launcher sets LOCAL_WORLD_SIZE, the number of processes on one of them."""
    count = len(hosts.read().hosts)
    here = os.environ.get("LOCAL_WORLD_SIZE", "").strip()
    if count > 1 or (here.isdigit() and int(here) < rank_and_world_size()[1]):
        raise ConfigError(f"candidates are shared among the processes of one host, and this job has {count if count > 1 else 'several'}",
                          hint="start mining and inference with one instance")
