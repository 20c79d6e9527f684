"""Models of a hub on localhost that MODEL_NAME and MODEL_FILE lead to."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.candidates import choose
from shared.errors import UsageError
from tests.gguf_files import tiny_llama
from tests.gguf_kinds import tiny, write_split
from tests.hub import COMMIT, Hub, serve_hub
from tests.serving import ROOT

# In a process of its own, since huggingface_hub reads its environment when it is imported.
RESOLVE = """
import json, sys
from gateway.hub import resolve
from shared.errors import UsageError
for names in json.loads(sys.argv[1]):
    try:
        source = resolve(*names)
        print(json.dumps([str(source.file.path), source.name, str(source.tokenizer)]))
    except UsageError as error:
        print(json.dumps([str(error)]))
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "ggml-fastapi"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    model = tiny_llama("spm").to_bytes()
    parts = write_split(tiny("qwen3"), tmp_path, 3, "m-Q6_K")
    repositories = {
        "owner/one": {"README.md": b"# One", "one.Q4_0.gguf": model},
        "owner/two": {"a.gguf": model, "sub/b.gguf": model, "old.bin": b"x"},
        "owner/none": {"config.json": b"{}", "model.safetensors": b"x"},
        "owner/gated": {"gated.gguf": model},
        "owner/private": {"private.gguf": model},
        "owner/many": {
            **{f"m-{label}.gguf": model for label in ("Q8_0", "Q4_K_M", "Q3_K_M", "F16")},
            "mmproj-F16.gguf": b"x", "imatrix.gguf": b"x",
            **{f"Q6_K/{path.name}": path.read_bytes() for path in parts},
            "m-Q2_K-00002-of-00002.gguf": b"x", "m-Q2_K-00001-of-00002.gguf": parts[0].read_bytes(),
        },
        "owner/trained": {
            "pytorch_model.bin": b"x", "tokenizer.json": b"{}", "model.q4_0.bin": model,
        },
        "bare": {"bare.gguf": model},
    }  # fmt: skip
    private = {"owner/private": "hf_secret"}
    with serve_hub(Hub(repositories, gated={"owner/gated"}, private=private)) as hub:
        yield hub


Start = Callable[..., list[list[str]]]
NO_NETWORK = ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:1"})


@pytest.fixture
def start(hub: Hub, tmp_path: Path) -> Start:
    """Starts of the server, in a process of its own, that share the hub's cache.

    For each name, or name and file, gives path, name and tokenizer of the model, or what is wrong.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    home = {"HF_HOME": str(tmp_path / "hub-home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    home |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    def start(*names: str, **environment: str) -> list[list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", RESOLVE, json.dumps([name.split() for name in names])],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**kept, **home, "NO_PROXY": "*", "HF_ENDPOINT": hub.url, **environment},
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        answers: list[list[str]] = [json.loads(line) for line in done.stdout.splitlines()]
        assert not any("\n" in answer[0] for answer in answers)
        return answers

    return start


def n_downloads(hub: Hub) -> int:
    return sum(each.startswith("GET") and "/resolve/" in each for each in hub.requests)


def test_hub_download_and_a_later_start_without_network(
    hub: Hub, start: Start, cache: Path
) -> None:
    (first,) = start("owner/one")
    path = Path(first[0])
    assert (first[1], path.name) == ("owner/one", "one.Q4_0.gguf") and COMMIT in path.parts
    assert path.read_bytes() == hub.repositories["owner/one"]["one.Q4_0.gguf"]
    assert n_downloads(hub) == 1
    hub.requests.clear()
    assert start("owner/one", "owner/one one.Q4_0.gguf") == [first, first]
    assert hub.requests == []
    # Nor is a note of ours needed.
    (cache / "hub" / "owner--one.txt").unlink()
    for offline in NO_NETWORK:
        again, (said,) = start("owner/one", "owner/one other.gguf", **offline)
        assert again == first
        assert "cannot be asked" in said
        assert "other.gguf is not in what is cached of the repository owner/one" in said


def test_hub_with_several_candidates(hub: Hub, start: Start) -> None:
    (several,), chosen, (again,), (missing,) = start(
        "owner/two", "owner/two sub/b.gguf", "owner/two", "owner/two c.gguf"
    )
    assert several.startswith("the repository owner/two holds several models")
    assert several.endswith("MODEL_FILE: a.gguf, old.bin, sub/b.gguf")
    assert chosen[0].endswith("/sub/b.gguf")
    # What an earlier start picked is no choice for this one.
    assert again == several
    assert "MODEL_FILE=c.gguf is not in the repository owner/two" in missing
    assert missing.endswith("found there: a.gguf, old.bin, sub/b.gguf")
    assert n_downloads(hub) == 1


def test_hub_refusals(hub: Hub, start: Start) -> None:
    (none,), (missing,), (gated,) = start("owner/none", "owner/missing", "owner/gated")
    assert none.startswith("the repository owner/none holds a model for PyTorch (*.safetensors)")
    assert hub.url in missing and "no such repository" in missing
    assert "is gated" in gated
    hub.broken = True
    assert "answered with status 500" in start("owner/one")[0][0]
    for offline in NO_NETWORK:
        assert "cannot be asked" in start("owner/one", **offline)[0][0]


def test_hub_file_may_have_a_tokenizer_and_no_owner(hub: Hub, start: Start) -> None:
    names = "owner/trained", "bare"
    first = start(*names)
    trained, bare = first
    assert bare[1] == "bare"
    found = [Path(trained[place]).name for place in (0, 2)]
    assert found == ["model.q4_0.bin", "tokenizer.json"]
    hub.requests.clear()
    assert start(*names) == first
    assert hub.requests == []


def test_hub_file_by_its_quantisation(hub: Hub, start: Start) -> None:
    hub.repositories["owner/many"].pop("m-Q2_K-00002-of-00002.gguf")
    names = "owner/many", "owner/many:q3_k_m", "owner/many:Q6_K"
    first = start(*names)
    paths = [Path(path) for path, *_ in first]
    assert [path.name for path in paths] == [
        "m-Q4_K_M.gguf", "m-Q3_K_M.gguf", "m-Q6_K-00001-of-00003.gguf"
    ]  # fmt: skip
    assert [name for _, name, _ in first] == list(names)
    assert len(list(paths[2].parent.iterdir())) == 3
    hub.requests.clear()
    assert start(*names) == first
    assert hub.requests == []
    # A part that has gone is fetched again; without network, it is named.
    (paths[2].parent / "m-Q6_K-00003-of-00003.gguf").unlink()
    (unreachable,) = start(names[2], **NO_NETWORK[0])[0]
    assert "but not Q6_K/m-Q6_K-00003-of-00003.gguf, which is a part" in unreachable
    assert start(names[2]) == [first[2]]
    (none,), (cut,), (both,) = start(
        "owner/many:IQ1_S", "owner/many:Q2_K", "owner/many:Q8_0 m-Q8_0.gguf"
    )
    assert none == (
        "the repository owner/many holds no GGUF file of IQ1_S; found there: "
        "Q6_K/m-Q6_K-00001-of-00003.gguf, m-F16.gguf, m-Q2_K-00001-of-00002.gguf, m-Q3_K_M.gguf, "
        "m-Q4_K_M.gguf, m-Q8_0.gguf"
    )
    assert "but not m-Q2_K-00002-of-00002.gguf" in cut
    assert "MODEL_FILE=m-Q8_0.gguf has no meaning" in both


def test_a_private_repository_wants_a_token(start: Start) -> None:
    ((refused,),) = start("owner/private")
    assert "or it is a private one (then set HF_TOKEN)" in refused
    ((path, *_),) = start("owner/private", HF_TOKEN="hf_secret")
    assert path.endswith("private.gguf")


@pytest.mark.parametrize(
    ("labels", "nearest"),
    [
        ("Q8_0 Q4_K_M Q4_K_S IQ4_XS F16", "Q4_K_M"),
        ("Q4_0 Q4_K_S IQ4_XS Q8_0", "Q4_K_S"),
        ("UD-Q4_K_XL Q4_0 BF16", "UD-Q4_K_XL"),
        ("Q3_K_L Q8_0 F16", "Q8_0"),
        ("Q2_K fp16", "Q2_K"),
        ("Q3_K_M Q5_0 q5_k_m", "q5_k_m"),
        ("MXFP4 F16", "MXFP4"),
    ],
)
def test_the_quantisation_nearest_to_the_usual_one(labels: str, nearest: str) -> None:
    names = [f"some-1.5-{label}.gguf" for label in labels.split()]
    assert choose("here", names, None) == f"some-1.5-{nearest}.gguf"


@pytest.mark.parametrize(
    "names",
    [
        "one-Q4_K_M.gguf two-Q4_K_M.gguf", "a-Q4_0.gguf b-Q8_0.gguf", "m.gguf m-Q4_0.gguf",
        "x/m-Q4_0.gguf y/m-Q4_0.gguf",
    ],
)  # fmt: skip
def test_of_several_models_none_is_guessed(names: str) -> None:
    with pytest.raises(UsageError, match="here holds several models"):
        choose("here", names.split(), None)
    with pytest.raises(UsageError, match="here holds several models"):
        choose("here", ["a/m-Q4_0.gguf", "b/m-Q4_0.gguf", "m-Q8_0.gguf"], None, "q4_0")
