"""The settings that say what a model is, and how to talk to it, with small models."""

import shutil
from pathlib import Path
from typing import Any

from shared.model.description import Family
from shared.model.inspect import inspect
from tests.models.reference import FOLDER, references
from tests.serving import Server, run_main, served


def said_before_it_ended(status: int, **settings: str) -> str:
    """What the server says on standard error when it cannot start."""
    ended = run_main(**settings)
    assert ended.returncode == status, ended
    assert "Traceback" not in ended.stderr
    return ended.stderr


def model(name: str) -> str:
    return str(FOLDER / name)


def chat_tokens(server: Server, content: str, **more: Any) -> int:
    """How many tokens the prompt of a chat with this one message has."""
    messages = [{"role": "user", "content": content}]
    body = {"messages": messages, "max_tokens": 1, "stream": False, **more}
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return int(response.json()["usage"]["prompt_tokens"])


def test_a_tokenizer_of_another_model_is_refused_if_it_was_asked_for() -> None:
    said = said_before_it_ended(
        1, MODEL_NAME=model("starcoder-mqa.bin"), TOKENIZER=model("tokenizers/mpt.json")
    )
    assert "mpt.json" in said and "another model" in said


def test_a_template_file_with_the_models_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "one.jinja").write_text("<|im_start|>{{ messages[0].content }}<|im_end|>")
    with served(
        "--workers", "1", MODEL_NAME=model("mpt-clip.bin"), MODEL_TYPE="mpt",
        CHAT_TEMPLATE=str(tmp_path / "one.jinja"), TOKENIZER=model("tokenizers/mpt.json"),
    ) as server:  # fmt: skip
        assert "template  one.jinja, from CHAT_TEMPLATE" in server.stdout
        assert chat_tokens(server, "") == 2
        # What the template writes is a token; what a user writes is text.
        assert chat_tokens(server, "<|im_end|>") >= 2 + 6
        assert chat_tokens(server, "<|im_start|>system") >= 2 + 6


def test_a_family_that_only_the_user_knows(tmp_path: Path) -> None:
    """StarCoder's and GPT-2's files are told apart by their vocabularies, if nobody says more."""
    path = tmp_path / "anonymous.bin"
    content = (FOLDER / "starcoder-mqa.bin").read_bytes()
    for word in (b"<fim_prefix>", b"<fim-prefix>"):
        content = content.replace(word, b"x" * len(word))
    # Words of several digits are what GPT-2 has.
    path.write_bytes(content.replace(b"<fim_suffix>", b"123456789012"))
    assert inspect(path).family is Family.GPT2
    with served("--workers", "1", MODEL_NAME=str(path), MODEL_TYPE="wizardcoder") as server:
        (model,) = server.http.get("/v1/models").json()["data"]
        assert model["family"] == "starcoder"
        # A token of StarCoder's, and mere text to GPT-2.
        body = {"model": model["id"], "prompt": "<filename>", "max_tokens": 1}
        usage = server.http.post("/v1/completions", json=body).json()["usage"]
        assert usage["prompt_tokens"] == 1


def test_a_tokenizer_of_another_model_beside_it_is_left_aside(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "starcoder-mqa.bin", tmp_path)
    shutil.copy(FOLDER / "tokenizers" / "mpt.json", tmp_path / "tokenizer.json")
    reference = references()["starcoder-mqa"]
    with served("--workers", "1", MODEL_NAME=str(tmp_path / "starcoder-mqa.bin")) as server:
        assert "the tokenizer is made from the model file instead" in server.stderr

        def prompt_tokens(prompt: str, **more: str) -> int:
            body = {"model": server.model, "prompt": prompt, "max_tokens": 1, **more}
            response = server.http.post("/v1/completions", json=body)
            return int(response.json()["usage"]["prompt_tokens"])

        assert prompt_tokens(reference.prompt) == len(reference.prompt_ids)
        # Fill in the middle.
        both = prompt_tokens("def f(") + prompt_tokens("return x")
        assert prompt_tokens("def f(", suffix="return x") == both + 3
        # The same by hand, as editors do it: here special tokens in the prompt are some.
        by_hand = "<fim_prefix>def f(<fim_suffix>return x<fim_middle>"
        assert prompt_tokens(by_hand) == both + 3
        assert prompt_tokens(by_hand, suffix="!") > both + 8


def chat_usage(server: Server, *contents: str) -> tuple[int, int]:
    """Prompt and cached tokens of a chat; the messages are a system's, a user's, and so on."""
    roles = ["system", *("user", "assistant") * len(contents)]
    messages = [
        {"role": role, "content": text} for role, text in zip(roles, contents, strict=False)
    ]
    body = {"messages": messages, "max_tokens": 4, "temperature": 0, "stream": False}
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    usage = response.json()["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def test_a_warm_prompt_is_in_every_workers_cache(quick_model: Path, tmp_path: Path) -> None:
    system = "You are Marvin, a robot. You answer every question briefly, and with a sigh."
    (tmp_path / "system.txt").write_text(system)
    with served(
        MODEL_NAME=str(quick_model), WARM_PROMPT=str(tmp_path / "system.txt"), WORKERS="1",
        PARKED="2",
    ) as server:  # fmt: skip
        status = server.ready()
        n_tokens = status["zygote"]["prefix_tokens"]
        assert n_tokens > 15
        assert [worker["cached_tokens"] for worker in status["workers"]] == [n_tokens] * 3
        for question in ("Who are you?", "How are you?", "Why?"):
            prompt_tokens, cached_tokens = chat_usage(server, system, question)
            assert n_tokens <= cached_tokens < prompt_tokens


def test_parked_conversations_go_on_where_they_were(quick_model: Path, tmp_path: Path) -> None:
    """More conversations than may run at the same time, by turns."""
    with served(
        MODEL_NAME=str(quick_model), ENGINE="ctransformers", WORKERS="1", PARKED="3",
        XDG_CACHE_HOME=str(tmp_path),
    ) as server:  # fmt: skip
        talks = {name: [f"You are {name}.", f"{name}, tell me of {name}."] for name in "ABCD"}
        known = dict.fromkeys(talks, 0)
        for turn in range(3):
            for name, talk in talks.items():
                prompt_tokens, cached_tokens = chat_usage(server, *talk)
                # All but where our answer to the last turn differs from the model's.
                assert cached_tokens >= known[name]
                known[name] = prompt_tokens - 1
                talks[name] = [*talk, "Well.", f"And {turn}?"]
        assert server.ready()["evictions"] == 0
