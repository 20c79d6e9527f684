"""Bodies of worker processes that do not do what a worker should, or show what they are told."""

import os
import signal
import sys
from typing import Any

from shared.config import WorkerConfig
from shared.encoding import decode, encode
from shared.messages import (
    Cancel,
    Command,
    Delta,
    Event,
    Finished,
    Generate,
    LoadFailed,
    ModelInfo,
    Prefilled,
    Ready,
    SetThreads,
    Shutdown,
)

MODEL = ModelInfo("test", n_ctx=100, n_vocab=10, max_token_bytes=1)
NOT_MESSAGES = {
    "text": b"Segmentation fault\n",
    "fields": b'["Ready",{"model":{"size":1}}]\n',
    "command": encode(Generate("r", (1,))) + b"\n",
}


def _send(outbox: Any, *messages: Event | Ready | LoadFailed) -> None:
    os.write(outbox.fileno(), b"".join(encode(message) + b"\n" for message in messages))


def _wait_for_ever(inbox: Any) -> None:
    while not isinstance(decode(inbox.get()), Shutdown):
        pass


def exits_at_once(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    pass


def raises_at_once(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # nobody needs to see the traceback
    raise RuntimeError("no")


def never_ready(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    _wait_for_ever(inbox)


def closes_its_pipe(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    outbox.close()
    while True:
        inbox.get()


def sends_garbage(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    """Sends the line that ``model_path`` names, then lives on."""
    os.write(outbox.fileno(), NOT_MESSAGES[config.model_path])
    while True:
        inbox.get()


def sends_garbage_when_asked(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    _send(outbox, Ready(MODEL))
    while not isinstance(decode(inbox.get()), Generate):
        pass
    sends_garbage(config, inbox, outbox)


def closes_its_pipe_when_asked(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    _send(outbox, Ready(MODEL))
    while not isinstance(decode(inbox.get()), Generate):
        pass
    closes_its_pipe(config, inbox, outbox)


def half_a_line(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    """Is ready, byte by byte, and dies in the middle of its first event."""
    for byte in encode(Ready(MODEL)) + b"\n":
        os.write(outbox.fileno(), bytes((byte,)))
    while not isinstance(decode(inbox.get()), Generate):
        pass
    os.write(outbox.fileno(), b'["Prefilled",{"request_id":"')
    os._exit(1)


def tells_threads(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    """Answers each change of the thread count with a `Delta`; generates until cancelled."""
    threads, running = config.threads, ""
    _send(outbox, Ready(MODEL))
    while True:
        command: Command = decode(inbox.get())
        match command:
            case Generate(request_id=running):
                _send(outbox, Prefilled(running, 1, 0, 0.0), Delta(running, str(threads), 1))
            case SetThreads(threads):
                if running:
                    _send(outbox, Delta(running, str(threads), 1))
            case Cancel(request_id):
                if request_id == running:
                    _send(outbox, Finished(running, "cancelled", 1, 0.0))
                    running = ""
            case Shutdown():
                return


def tells_imports(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    """Begins like a worker, and says which modules it had to import for that."""
    from tests.integration.notes_modules import born_with
    from worker import loading
    from worker.loop import Loop

    engine, _, grammars = loading.loaded()
    Loop(engine, 1, inbox, outbox, grammars)
    imported = sorted(name for name in sys.modules if name not in born_with)
    ours = [name for name in imported if not name.startswith("tests.") and name != "tests"]
    _send(outbox, LoadFailed(f"imported {ours}, main is {sys.modules['__main__'].__name__}"))


def obeys(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    """Does what the prompt says, else answers with it; ``text SIGSEGV`` has some text first."""
    _send(outbox, Ready(MODEL))
    while not isinstance(command := decode(inbox.get()), Shutdown):
        if not isinstance(command, Generate):
            continue
        name, text = command.request_id, bytes(command.ids).decode()
        order, *words = text.split(" ")
        if order == "text":
            order, *words = words
            _send(outbox, Prefilled(name, 1, 0, 0.0), Delta(name, "text", 1))
        if order == "once":  # a worker that has not left a mark there
            path, order = words
            if os.path.exists(path):
                order = ""
            else:
                open(path, "w").close()
        if order.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[order])
        elif order == "exit":
            os._exit(7)
        elif order == "spin":
            while True:
                pass
        elif order == "sleep":
            signal.pause()
        elif order == "take":
            taken = bytearray(int(words[0]) << 20)
            signal.pause()
            del taken
        _send(outbox, Prefilled(name, 1, 0, 0.0), Delta(name, text, 1))
        _send(outbox, Finished(name, "stop", 1, 1.0))


POISON = "poison"


def dies_of_poison(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    """A worker whose engine crashes when it decodes behind a certain prompt."""
    from worker.engines.echo import EchoEngine
    from worker.loop import Loop

    class Fragile(EchoEngine):
        def forward(self, batch: Any, threads: int) -> Any:
            for part in batch:
                prompt = bytes(self._prompts[part.slot]).decode()
                if prompt == POISON and len(part.tokens) == 1:
                    os.kill(os.getpid(), signal.SIGSEGV)
            return super().forward(batch, threads)

    engine = Fragile(config)
    outbox.send([Ready(engine.info)])
    Loop(engine, 1, inbox, outbox).run()
