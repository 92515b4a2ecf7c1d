"""Who may know whom: the contracts of import-linter, and what it cannot express, read from the syntax trees.

A name counts as imported wherever the statement stands: at the top, in a function, or for type checkers alone.
"""

from __future__ import annotations

import ast
import functools
import itertools
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

from .tree import ROOMS, ROOT, import_name, modules, parsed

MODULES = modules(*ROOMS)

TORCH_MODULES = (  # they define modules of torch, so importing them is asking for it
    *(
        f"adapt_dhm.{name}"
        for name in ("adam", "classifier", "model", "network", "parallel", "routing", "state", "table")
    ),
    "dynamic_sparse.backbones",
    "dynamic_sparse.published",
    "dynamic_sparse.serving",
    "embedding.module",
)
# Package → where it may be imported; a pattern is matched from the right, `**` is any number of folders.
ALLOWED: dict[str, tuple[str, ...]] = {
    "numba": ("storage/encodings/*.py", "streaming/learners/kernels.py", "streaming/learners/ihomer/jit.py"),
    "llvmlite": ("storage/encodings/_vector.py",),
    "torch": ("streaming/learners/**/*.py", "storage/torch.py"),
    "kafka": ("streaming/producer.py", "streaming/source.py", "streaming/broker.py"),
    "pyspark": ("jobs/**/*.py", "scheduler/*.py", "storage/spark.py", "streaming/spark_*.py"),
    "py4j": ("jobs/**/*.py",),
    "packaging": ("jobs/pack.py",),
    "great_expectations": ("streaming/contracts/*.py",),
    "pandas": (
        "streaming/contracts/*.py",
        "streaming/learners/*.py",
        "streaming/learners/ihomer/*.py",
        "streaming/learners/adapt_dhm/classifier.py",
        "streaming/learners/adapt_dhm/fields.py",
        "streaming/learners/dynamic_sparse/recommender.py",
    ),
    "river": (
        "streaming/learners/*.py",
        "streaming/learners/ihomer/*.py",
        "streaming/learners/adapt_dhm/classifier.py",
        "streaming/learners/dynamic_sparse/recommender.py",
    ),
    "safetensors": ("streaming/learners/tensors.py", "streaming/learners/adapt_dhm/noted.py"),
    "psutil": ("streaming/*.py", "jobs/*.py"),
    "pydantic": ("jobs/*.py",),
    "pydantic_settings": ("jobs/*.py",),
    "typer": ("jobs/*.py",),
    "rich": ("jobs/*.py",),
    "crc32c": ("streaming/producer.py", "streaming/source.py"),
    "cryptography": ("storage/signing.py",),
    "pyroaring": ("storage/forgotten.py", "storage/erase.py", "storage/held.py", "storage/reader.py"),
    "obstore": ("storage/objects.py",),
    "fsspec": ("storage/objects.py",),
}
STANDARD = {"blake3", "msgspec", "numpy", "pyarrow", "headrace"}  # these are at home everywhere
CARRIED = {
    "py4j": "pyspark",
    "click": "typer",
    "llvmlite": "numba",
    "pydantic": "pydantic-settings",
}  # these come with another's promise
NEVER = {"tests", "notebooks", "benchmarks"}
# What turns bytes into behaviour has no place on any way that data takes.
EXECUTING_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "code",
    "codeop",
}
EXECUTING_CALLS = {"eval", "exec", "compile", "__import__"}


@functools.cache
def _imports(path: Path) -> tuple[tuple[int, str], ...]:
    return tuple(_read_imports(path))


def _read_imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports; `from a import b` is `a.b`."""
    package = import_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join((*above, *([node.module] if node.module else [])))
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def _offences(names: set[str]) -> list[str]:
    return [
        f"{path}:{line}: {name}"
        for path in MODULES
        for line, name in _imports(path)
        if name.partition(".")[0] in names
    ]


def _matches(path: Path, pattern: str) -> bool:
    if "**/" in pattern:
        return _matches(path, pattern.replace("**/", "")) or path.is_relative_to(pattern.partition("/**")[0])
    return len(PurePath(pattern).parts) == len(path.parts) and path.match(pattern)


def test_the_contracts_between_rooms_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run(
        [lint, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 broken" in ran.stdout


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_is_known_only_where_it_may_be(package: str) -> None:
    strangers = [
        f"{path}:{line}: {name}"
        for path in MODULES
        for line, name in _imports(path)
        if name.partition(".")[0] == package
        and not any(_matches(path, pattern) for pattern in ALLOWED[package])
    ]
    assert strangers == []


def test_every_package_that_is_imported_has_a_place() -> None:
    known = STANDARD | set(ALLOWED) | sys.stdlib_module_names
    used = {name.partition(".")[0] for path in MODULES for _, name in _imports(path)}
    assert used - known == set()


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    promises = [
        *project["dependencies"],
        *(promise for name in extras if name != "dev" for promise in extras[name]),
    ]
    declared = {match[0].lower() for promise in promises if (match := re.match(r"[\w.-]+", promise))}
    used = {
        name.partition(".")[0] for path in MODULES for _, name in _imports(path)
    } - sys.stdlib_module_names
    wanted = {CARRIED.get(name, name).replace("_", "-") for name in used - {"headrace"}}
    wanted = {{"kafka": "kafka-python"}.get(name, name) for name in wanted}
    assert wanted - declared == set()


def test_no_room_knows_the_tests_the_notebooks_or_the_benchmarks() -> None:
    assert _offences(NEVER) == []


@pytest.mark.parametrize(
    ("room", "stranger"), list(itertools.permutations(("scheduler", "storage", "streaming"), 2))
)
def test_scheduler_storage_and_streaming_never_meet(room: str, stranger: str) -> None:
    barred = (f"headrace.{stranger}", "headrace.jobs")
    met = [
        f"{path}:{line}" for path in modules(room) for line, name in _imports(path) if name.startswith(barred)
    ]
    assert met == []


@pytest.mark.parametrize("folder", ["storage/encodings", "streaming/learners"])
def test_the_innermost_rooms_know_only_themselves(folder: str) -> None:
    own = import_name(Path(folder, "__init__.py"))
    above = [
        f"{path}:{line}: {name}"
        for path in MODULES
        if path.is_relative_to(folder)
        for line, name in _imports(path)
        if name.startswith("headrace.") and not f"{name}.".startswith(f"{own}.")
    ]
    assert above == []


def test_nothing_that_is_read_can_run() -> None:
    called = [
        f"{path}:{node.lineno}: {node.func.id}"
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EXECUTING_CALLS
    ]
    pickled = [
        f"{path}:{keyword.value.lineno}: {keyword.arg}"
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in ("allow_pickle", "shell")
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]
    assert _offences(EXECUTING_MODULES) + called + pickled == []


def test_no_environment_is_read_at_import() -> None:
    """A setting is read when somebody asks, so that importing a module means the same everywhere."""
    read = []
    for path in MODULES:
        tree = parsed(path)
        within = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for inner in ast.walk(node)
        }
        read += [
            f"{path}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and node not in within
        ]
    assert read == []


WATCH = """
import importlib, json, sys, threading
WATCHED = ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.fork", "os.posix_spawn",
           "os.system", "os.exec", "_thread.start_new_thread")
seen = []
sys.addaudithook(lambda event, args: seen.append([event, str(args)]) if event in WATCHED else None)
for name in json.load(sys.stdin):
    importlib.import_module(name)
    seen += [[name, str(thread)] for thread in threading.enumerate() if thread is not threading.main_thread()]
loaded = [name for name in sys.argv[1:] if name in sys.modules]
print(json.dumps({"seen": seen, "loaded": loaded}))
"""


@pytest.mark.parametrize(
    ("room", "absent"),
    [
        (
            "storage",
            [
                "numba",
                "pyspark",
                "torch",
                "obstore",
                "fsspec",
                "kafka",
                "pandas",
                "river",
                "great_expectations",
            ],
        ),
        ("scheduler", ["numba", "numpy", "pyarrow", "pyspark", "pandas", "torch"]),
        ("streaming", ["numba", "pyspark", "torch", "great_expectations"]),
        ("jobs", ["numba", "torch", "great_expectations"]),
    ],
)
def test_importing_a_room_starts_nothing_and_compiles_nothing(room: str, absent: list[str]) -> None:
    names = [import_name(path) for path in modules(room) if path.stem != "__main__"]
    borders = {"headrace.storage.spark", "headrace.storage.torch"}  # pyspark's and torch's own
    if room == "streaming":  # and the learners' torch modules, which nothing else may import unasked
        borders |= {f"headrace.streaming.learners.{name}" for name in TORCH_MODULES}
    names = [name for name in names if name not in borders]
    ran = subprocess.run(
        [sys.executable, "-c", WATCH, *absent],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == json.dumps({"seen": [], "loaded": []}) + "\n"
