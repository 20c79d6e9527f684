"""What tokenizers make of tests/data/lines.txt: how many tokens, and a digest of them.

The ids themselves are compared with those of the tokenizers' authors in
tests/unit/worker/test_tokenizer_families.py; this holds the whole way of a text, from HTTP on.
"""

import hashlib
import json

from tests.serving import ROOT, Server

TOKENS_OF_LINES = {
    "demo": "123148 9a5d5ab509b94147",
    "falcon": "182501 9c8cf8d626fe7c0c",
    "gpt2": "181326 2029cc7bfe8cd2e1",
    "gpt_bigcode": "180530 5120b98e2586944d",
    "gpt_neox": "180161 1c7ce492296e3a9d",
    "llama": "181606 2824f6d5026a459c",
    "mpt": "179552 515f33f13b0ab61d",
}


def tokens_of_lines(server: Server) -> str:
    content = (ROOT / "tests" / "data" / "lines.txt").read_text("utf-8").split("\n")
    text = "\n".join(json.loads(line) for line in content if line)
    answer = server.http.post("/tokenize", json={"content": text}).json()
    digest = hashlib.sha256(" ".join(map(str, answer["tokens"])).encode()).hexdigest()
    return f"{answer['count']} {digest[:16]}"
