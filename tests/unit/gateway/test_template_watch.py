"""Tests of how the death of a template is noticed."""

import asyncio
import subprocess
from typing import Any

from gateway.pool.template_watch import TemplateWatch


class Templates:
    """Processes in place of templates; the second dies before its start is over."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.starts = 0
        self.revived = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.watch = TemplateWatch(self, lambda: None)  # type: ignore[arg-type]
        self.begin()

    def begin(self) -> None:
        self.processes.append(subprocess.Popen(["sleep", "60"]))

    @property
    def pids(self) -> tuple[int, None]:
        return self.processes[-1].pid, None

    def ensure_running(self) -> None:
        self.starts += 1
        self.begin()
        if self.starts == 1:
            noticed = asyncio.run_coroutine_threadsafe(self.dies_unnoticed(), self.loop)
            noticed.result()
        else:
            self.loop.call_soon_threadsafe(self.revived.set)

    async def dies_unnoticed(self) -> None:
        pid = self.pids[0]
        self.watch.look()
        self.processes[-1].kill()
        watched: Any = self.watch._watched
        while pid in watched:
            await asyncio.sleep(0.002)


def test_a_template_that_dies_while_its_start_is_waited_for() -> None:
    async def work() -> None:
        templates = Templates()
        try:
            templates.watch.look()
            templates.processes[0].kill()
            await asyncio.wait_for(templates.revived.wait(), 20)
            assert templates.starts == 2
        finally:
            templates.watch.begin_close()
            await templates.watch.close()
            for process in templates.processes:
                process.kill()
                process.wait()

    asyncio.run(work())
