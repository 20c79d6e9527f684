"""Tests of the choice of the engine's library, and of what makes a native build a sound one."""

import hashlib
import platform
import shutil
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from shared.errors import UsageError
from shared.model.library import (
    RECIPE,
    Cpu,
    Record,
    choose,
    engine_version,
    library_path,
    library_variant,
    package_library,
    record_path,
)

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Intel(R) Xeon(R) Gold
stepping\t: 7
flags\t\t: fpu avx f16c fma avx2

processor\t: 1
flags\t\t: none
"""
ARM = """processor\t: 0
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd0c
"""
CPU = Cpu("x86_64", "Some CPU (R) 9", ("some",), ("avx", "avx2", "f16c", "fma"))
HERE = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="ctransformers' wheels have libraries for x86 only"
)

_SPEC = find_spec("orjson.orjson")
assert _SPEC is not None and _SPEC.origin is not None
EXTENSION = _SPEC.origin
"""A library, but of something else."""


def install(cache: Path, content: bytes, **changes: object) -> Path:
    """Put something into the cache as the native build for this machine's CPU."""
    cpu = Cpu.here()
    path = library_path(cache, engine_version(), cpu)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    record = Record(
        recipe=RECIPE,
        engine=engine_version(),
        cpu=cpu.name,
        cpu_digest=cpu.digest,
        compiler="c++",
        options="-O3",
        compared_with="avx2",
        difference=0.0,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    record_path(path).write_bytes(replace(record, **changes).to_json())  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("text", "name", "flags"),
    [
        (X86, "Intel(R) Xeon(R) Gold", ("avx", "avx2", "f16c", "fma", "fpu")),
        (ARM, "CPU 0xd0c", ("asimd", "fp")),
        ("", "", ()),
    ],
)
def test_a_cpu_is_read(tmp_path: Path, text: str, name: str, flags: tuple[str, ...]) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    cpu = Cpu.here(tmp_path)
    assert cpu.name.endswith(name) and cpu.flags == flags


@pytest.mark.parametrize("field", ["machine", "model", "flags"])
def test_another_cpu_has_another_digest(field: str) -> None:
    other = replace(CPU, **{field: "other" if field == "machine" else ("other",)})  # type: ignore[arg-type]
    assert other.digest != CPU.digest


def test_the_name_in_the_cache_tells_cpu_and_version(tmp_path: Path) -> None:
    path = library_path(tmp_path, "0.2.27", CPU)
    assert path.name == f"ctransformers-0.2.27-recipe{RECIPE}-some-cpu-r-9-{CPU.digest}.so"


@HERE
@pytest.mark.parametrize(
    ("flags", "variant"),
    [
        (("avx", "avx2", "f16c", "fma"), "avx2"),
        (("avx", "avx2", "f16c"), "avx"),
        (("avx",), "basic"),
        ((), "basic"),
    ],
)
def test_the_variant_that_a_cpu_can_run(flags: tuple[str, ...], variant: str) -> None:
    assert library_variant(replace(CPU, flags=flags)) == variant
    library = package_library(replace(CPU, flags=flags))
    assert library.label == f"ctransformers {engine_version()}, {variant}"
    assert Path(library.path).parent.name == variant


@HERE
def test_a_machine_that_the_package_has_no_library_for() -> None:
    with pytest.raises(UsageError, match=r"Linux on aarch64.*`ggml-fastapi build-engine`"):
        package_library(replace(CPU, machine="aarch64"))


def test_the_native_build_is_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = install(tmp_path, b"a library")
    library = choose(None, tmp_path)
    assert library.path == str(path)
    assert library.label.startswith(f"native build of ctransformers {engine_version()}, ")
    assert caplog.messages == []


@HERE
def test_without_one_the_package_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert choose(None, tmp_path) == package_library(Cpu.here())
    assert caplog.messages == []


@HERE
@pytest.mark.parametrize(
    "wrong",
    [
        {"sha256": "0" * 64}, {"cpu_digest": "0" * 12}, {"recipe": RECIPE + 1},
        {"engine": "0.2.26"}, b"", b"{", b"[]", b"{}", b'{"recipe": 1}', b"\xff",
    ],
)  # fmt: skip
def test_one_that_does_not_match_its_record_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: dict[str, object] | bytes
) -> None:
    path = install(tmp_path, b"a library", **(wrong if isinstance(wrong, dict) else {}))
    if isinstance(wrong, bytes):
        record_path(path).write_bytes(wrong)
    assert choose(None, tmp_path) == package_library(Cpu.here())
    (message,) = caplog.messages
    assert str(path) in message and ("build-engine --force" in message or "not used" in message)


@HERE
def test_one_for_another_cpu_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = install(tmp_path, b"a library")
    for one in (path, record_path(path)):
        one.rename(one.with_name(one.name.replace(Cpu.here().digest, "0" * 12)))
    assert choose(None, tmp_path) == package_library(Cpu.here())
    assert "another CPU" in caplog.text and "build-engine" in caplog.text


@HERE
def test_a_library_without_its_record_is_none(tmp_path: Path) -> None:
    path = install(tmp_path, b"a library")
    record_path(path).unlink()
    assert choose(None, tmp_path) == package_library(Cpu.here())


@HERE
def test_ct_lib_names_a_variant_or_a_file(tmp_path: Path) -> None:
    install(tmp_path, b"a library")
    basic = choose("basic", tmp_path)
    assert basic.label == f"ctransformers {engine_version()}, basic"
    path = shutil.copy(basic.path, tmp_path / "mine.so")
    library = choose(str(path), tmp_path)
    assert (library.path, library.label) == (str(path), str(path))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/no/such.so", r"CT_LIB=/no/such.so: there is no file /no/such.so.*avx2, avx, basic"),
        ("avx3", r"there is no file .*/avx3; name a build.*avx2, avx, basic"),
        (__file__, r"not a library of ctransformers .*: .*(invalid ELF header|file too short)"),
        (EXTENSION, r"not a library of ctransformers .*ctransformers_llm_create"),
    ],
)
def test_ct_lib_names_none(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        choose(name, tmp_path)


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("_Exit(3)", "exit status 3"),
        ("_Exit(0)", "exit status 0"),
        ("raise(SIGSEGV)", "killed by SIGSEGV"),
        ("raise(SIGRTMIN + 5)", "killed by signal 39"),
    ],
)
def test_ct_lib_names_one_that_ends_the_process(tmp_path: Path, ending: str, said: str) -> None:
    source, path = tmp_path / "a.c", tmp_path / "a.so"
    source.write_text(
        "#include <signal.h>\n#include <stdlib.h>\n"
        f"__attribute__((constructor)) static void begin(void) {{ {ending}; }}\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, source], check=True, timeout=60)
    with pytest.raises(UsageError, match=rf"loading it ends the process \({said}\)"):
        choose(str(path), tmp_path)
