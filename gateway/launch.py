"""Makes the pool of a plan: the one place where settings become its arguments."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway import machine
from gateway.models import ServingConfig
from gateway.plan import Plan
from gateway.pool.base import Limits
from gateway.pool.local import LocalPool
from gateway.settings import Settings

# With so many, one preparer may not keep up with the workers.
_MANY_CORES = 8


@dataclass(frozen=True)
class Launch:
    """What the pools of a server have in common, whatever model they serve."""

    settings: Settings
    target: Callable[..., None]  #: body of a worker process
    preparer: Callable[..., None]  #: body of a preparer

    def pool(self, plan: Plan) -> tuple[ServingConfig, LocalPool]:
        """The pool for a plan, not started, and what clients see of it."""
        settings = self.settings
        config = ServingConfig(
            model_id=plan.worker.model_id,
            model_file=plan.worker.file_name,
            workers=plan.workers,
            most_bytes=plan.most_bytes,
            max_body_bytes=settings.max_body_bytes,
            request_timeout_s=settings.request_timeout,
            queue_timeout_s=settings.queue_timeout,
            created=int(time.time()),
            log_prompts=settings.log_prompts,
            threads=plan.threads,
            is_exact=plan.is_exact,
            calibration=plan.calibration,
        )
        pool = LocalPool(
            plan.worker,
            workers=plan.workers,
            max_queue=settings.max_queue,
            target=self.target,
            preparer=self.preparer,
            preparers=2 if machine.usable_cores() >= _MANY_CORES else 1,
            parked=plan.parked,
            warm_prompt=plan.warm_prompt,
            limits=Limits(
                start_timeout_s=settings.start_timeout,
                stall_timeout_s=settings.stall_timeout,
                max_worker_memory=settings.max_worker_memory,
                min_free_memory=settings.min_free_memory,
                max_queue_seconds=settings.max_queue_seconds,
            ),
        )
        return config, pool
