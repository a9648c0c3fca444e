"""How methods run: the oracle, the fast twin, the active set, budgets, verification, executors."""

from hardpoint.engine.attack import Attack, Reply, State, Task
from hardpoint.engine.budget import Budget, Deadline
from hardpoint.engine.executors import Executor, InProcess, LocalProcesses, RayCluster, executor_of
from hardpoint.engine.oracle import Oracle
from hardpoint.engine.runner import Found, run_attack
from hardpoint.engine.twin import TwinPlan, build_twin, choose_twin
from hardpoint.engine.verify import verify

__all__ = [
    "Attack",
    "Budget",
    "Deadline",
    "Executor",
    "Found",
    "InProcess",
    "LocalProcesses",
    "Oracle",
    "RayCluster",
    "Reply",
    "State",
    "Task",
    "TwinPlan",
    "build_twin",
    "choose_twin",
    "executor_of",
    "run_attack",
    "verify",
]
