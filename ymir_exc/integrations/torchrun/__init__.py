"""A task in several processes, one a GPU, on one host or on many, by torch's own elastic launcher.

    sys.exit(Executor({"training": train}, launcher=torchrun.per_gpu).main())

With `gpu_id: '0,1'` the program is started again in two processes, its ranks, each with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT in its environment; with one GPU or none the function is called in this process. A rank then does

    device = torchrun.device(cfg)
    with torchrun.process_group(device), torchrun.mixed_precision(device):
        ...

The process that started the ranks does not train: it waits for them, ends them when one has failed or a stop is asked for, and says how
the task ended. The platform hears of a failure once, in the words of the rank that failed first. Rank 0 writes results and progress.
A rank that ends early with status 0 has done its part; the others go on.

With one host nothing but this machine's loopback interface is used. Where the platform names several (`ymir_exc.hosts`) each starts its
own ranks, all together are one group, and each host tells the same first failure. torch is loaded by the calls that need it, never by an
import of this package.

    _launchers   how many processes a task is for
    _launch      starts them and waits
    _ending      how they are ended
    _words       their stderr, passed on, its end kept
    _first       which one failed first, and of what
    _several     the same on several hosts
    _member      a launcher among those of the other hosts
    _board       where these meet, on the first host
    _protocol    what they say to each other
    _ranks       in a rank: device, group, exchanges
    _budget      in a rank: how long to train
"""
from __future__ import annotations

from ymir_exc.integrations.torchrun._budget import Budget as Budget
from ymir_exc.integrations.torchrun._launch import launch as launch
from ymir_exc.integrations.torchrun._launchers import IMAGES_WORTH_A_PROCESS as IMAGES_WORTH_A_PROCESS
from ymir_exc.integrations.torchrun._launchers import per_device as per_device
from ymir_exc.integrations.torchrun._launchers import per_gpu as per_gpu
from ymir_exc.integrations.torchrun._launchers import processes as processes
from ymir_exc.integrations.torchrun._launchers import tune_cpu as tune_cpu
from ymir_exc.integrations.torchrun._ranks import GROUP_TIMEOUT_SECONDS as GROUP_TIMEOUT_SECONDS
from ymir_exc.integrations.torchrun._ranks import average_gradients as average_gradients
from ymir_exc.integrations.torchrun._ranks import device as device
from ymir_exc.integrations.torchrun._ranks import mixed_precision as mixed_precision
from ymir_exc.integrations.torchrun._ranks import of_rank_0 as of_rank_0
from ymir_exc.integrations.torchrun._ranks import process_group as process_group
from ymir_exc.integrations.torchrun._ranks import should_stop as should_stop
