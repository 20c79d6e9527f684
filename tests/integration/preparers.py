"""Bodies of preparers that do what a question tells them to."""

import os
import signal
from typing import Any

from shared.config import WorkerConfig
from shared.messages import Chat, Ready, Text
from worker import loading, preparer
from worker.prompt.formats import ChatFormat
from worker.prompt.prompts import Parts, Prompts

SECONDS = 1
"""Of CPU time that a question may take here."""


class Obedient(Prompts):
    """Renders a chat with the template that its first message is; a text may be an order."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine, ChatFormat("test", ""))
        self._engine = engine

    def of_chat(self, chat: Chat) -> Parts:
        source, *messages = chat.messages
        user = {"role": "user", "content": "Hi"}
        made = Prompts(self._engine, ChatFormat("test", source["content"]))
        return made.of_chat(Chat((*messages, user)))

    def of_text(self, text: Text) -> Parts:
        match text.text.split():
            case ["signal", name]:
                os.kill(os.getpid(), signal.Signals[name])
            case ["once", name, path] if not os.path.exists(path):
                open(path, "w").close()
                os.kill(os.getpid(), signal.Signals[name])
            case ["spin"]:
                while True:
                    pass
        return super().of_text(text)


def obeys(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    preparer.MOST_CPU_S = SECONDS
    engine, _, grammars = loading.loaded()
    outbox.send([Ready(engine.info)])
    preparer.Preparer(engine, Obedient(engine), grammars, inbox, outbox).run()
