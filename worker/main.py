"""The body of a worker process, a fork of the zygote."""

import signal
from typing import TYPE_CHECKING

from shared import oom_score
from shared.config import WorkerConfig
from shared.logging import configure_logging
from shared.messages import Ready

if TYPE_CHECKING:
    from worker.pipes import Inbox, Outbox


def run_worker(config: WorkerConfig, inbox: "Inbox", outbox: "Outbox") -> None:
    """Run a worker until `Shutdown` arrives or the gateway is gone."""
    _begin(config)
    # Imported here, not above: the gateway names this function and must not load an engine. In a
    # fork of the zygote both are there already.
    from worker import loading
    from worker.loop import Loop

    engine, _, grammars = loading.loaded()
    outbox.send([Ready(engine.info)])
    Loop(engine, config.threads, inbox, outbox, grammars, loading.prefix_memory()).run()


def run_preparer(config: WorkerConfig, inbox: "Inbox", outbox: "Outbox") -> None:
    """Run a preparer until `Shutdown` arrives or the gateway is gone."""
    _begin(config)
    from worker import loading
    from worker.preparer import Preparer

    engine, prompts, grammars = loading.loaded()
    outbox.send([Ready(engine.info)])
    Preparer(engine, prompts, grammars, inbox, outbox).run()


def _begin(config: WorkerConfig) -> None:
    # The gateway alone decides when a worker ends. The zygote has them blocked already.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    oom_score.adjust(oom_score.WORKER)
    configure_logging(config.log_level, config.log_format, config.name)
