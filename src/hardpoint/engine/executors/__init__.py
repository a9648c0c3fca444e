"""Where work runs: in this process, in local processes, or on a Ray cluster.

Work is a function of a session (model, data, settings: made once per worker) and a small description of one piece.
Pieces are independent, results come back as they finish, nothing is shared: a worker that dies loses the piece it was
at, which another does again.
"""

from hardpoint.engine.executors.base import Executor, InProcess, Pool
from hardpoint.engine.executors.processes import LocalProcesses
from hardpoint.engine.executors.ray import RayCluster

__all__ = ["Executor", "InProcess", "LocalProcesses", "Pool", "RayCluster", "executor_of"]


def executor_of(workers: int | Executor) -> Executor:
    """An executor from a number of local processes, or the executor itself.

    >>> executor_of(1), executor_of(3)
    (InProcess(workers=1), LocalProcesses(workers=3))
    """
    if not isinstance(workers, int):
        return workers
    return InProcess() if workers == 1 else LocalProcesses(workers)
