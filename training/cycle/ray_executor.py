"""Jobs on the machines of a Ray cluster, all of which see the store's folder (ray.io; arXiv 1712.05889)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smt.training.cycle.store import JobError


class RayExecutor:
    """One task a job, one core each. Uses the cluster that RAY_ADDRESS names, or starts one on this machine."""

    def __init__(self, workers: int | None = None) -> None:
        """workers: cores of the cluster that is started here; None is all of them.

        Raises JobError if Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            raise JobError("ray is not installed: pip install 'smt-stack[ray]'") from error
        self._ray: Any = ray
        self._workers = workers

    def run(self, folders: Sequence[Path], done: Callable[[Path], None]) -> None:
        """See `Executor`."""
        ray = self._ray
        if not ray.is_initialized():
            import os

            here = {"num_cpus": self._workers, "_node_ip_address": "127.0.0.1"}  # which nobody else can reach
            there = {"address": "auto"} if "RAY_ADDRESS" in os.environ else here
            ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False, **there)
        environment = {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}}
        task = ray.remote(num_cpus=1, max_retries=2, runtime_env=environment)(_execute)
        waiting = {task.remote(str(folder)): folder for folder in folders}
        try:
            while waiting:
                [ready], _ = ray.wait(list(waiting), num_returns=1)
                folder = waiting.pop(ready)
                try:
                    ray.get(ready)
                except ray.exceptions.RayError as error:
                    raise JobError(f"the job in {folder} failed:\n{error}") from error
                done(folder)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        self._ray.shutdown()


def _execute(folder: str) -> None:
    import torch

    from smt.training.cycle.execute import execute

    torch.set_num_threads(1)
    execute(Path(folder))
