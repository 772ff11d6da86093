"""The direction of imports, and the places that private or heavy things may be imported from, read from the source by `ast`."""

import ast
import contextlib
import graphlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "apps": set(),
    "kuberay": {
        *("apps.slice", "apps.checks", "apps.weights", "apps.llm.cache_identity"),
        *(
            f"apps.common.{name}"
            for name in ("errors", "command_line", "settings", "serve_status", "progress_line", "option_types")
        ),
    },
    "runtime_env": set(),
    "benchmarks": {"apps", "kuberay"},
    "emulation": {"apps", "kuberay", "benchmarks"},
}
PURE = {
    "apps/common": ("errors", "command_line", "imports", "settings", "serve_status"),
    "apps/llm": ("args", "cache_identity"),
    "apps/chat": ("args",),
    "apps/slice": ("topology", "models", "model_config", "memory", "roofline", "hosts", "placement", "efficiency"),
    "apps/weights": ("receipt", "manifest", "checksums", "local_manifest", "retry", "local_copy", "args"),
    "apps/checks": ("findings", "schema", "arguments", "slice_rules", "llm_rules", "serve_rules"),
    "apps/guard": (
        *("settings", "keys", "key_usage", "fair", "answers", "generation_request"),
        *("fields", "engines", "field_rules", "verifier", "bodies", "caps", "response_tracker", "admission", "middleware"),
        "command",
    ),
    "kuberay": ("names", "objects", "consistency", "reasons"),
    "kuberay/rollout": ("effects",),
    "kuberay/manifests": ("pods", "ray", "network", "admission", "staging"),
    "benchmarks/planner": ("footprint", "candidates", "predict", "plan", "rank", "output", "published"),
    "benchmarks/compile": ("hlo",),
    "emulation/sim": ("text", "cache", "faults", "scheduler", "protocol", "engine"),
    "emulation/kubernetes/nodes": ("webhook_rules", "pod_status", "dns", "orders"),
    "runtime_env/haproxy": ("affinity", "config", "servers"),
}
"""Modules that import no Ray, no YAML and no network."""
PRIVATE = {
    "ray.llm._internal": {"apps/llm/server.py", "apps/llm/callbacks.py"},
    "ray.serve._private": {"apps/common/loopback.py"},
    "ray._private": {"apps/slice/preemption.py", "emulation/hosts/head.py", "emulation/hosts/hosts.py"},
    "ray._raylet": set(),
    "ray.core.generated": {"apps/slice/preemption.py"},
    "vllm": {"apps/llm/forked_core.py", "apps/llm/preload.py", "benchmarks/compile/engine.py", "emulation/tpu/hosts.py"},
    "gradio": {"apps/chat/page.py", "apps/chat/site.py"},
    "fsspec": {"apps/weights/store.py"},
    "httptools": {"benchmarks/serving/client.py"},
    "kubernetes": {"kuberay/api.py"},
    "matplotlib": {"benchmarks/report/plots.py"},
    "tokenizers": {"benchmarks/serving/tokenizer.py", "emulation/tpu/model.py"},
    "uvloop": {"benchmarks/serving/measure.py", "benchmarks/serving/load.py"},
    "python_client": {"kuberay/clusters.py"},
    "cryptography": {"emulation/kubernetes/pki.py"},
    "jax": {
        *(f"benchmarks/compile/{name}.py" for name in ("described", "engine", "cache_check")),
        *(f"emulation/tpu/{name}.py" for name in ("attention", "devices", "hosts")),
    },
    "tpu_inference": {
        *("benchmarks/compile/described.py", "benchmarks/compile/engine.py"),
        *(f"emulation/tpu/{name}.py" for name in ("attention", "hosts")),
    },
    "huggingface_hub": {"apps/weights/sources.py", "apps/weights/hub_reader.py", "emulation/hosts/model.py"},
}
"""Packages that are private or heavy, and the modules that may import them or name them in code for another process."""


# They set variables for a child process, or for a library that is configured by them alone.
SETTERS = ("apps/llm/forked_core.py",)
SITE = "emulation/hosts/site/sitecustomize.py"  # runs in each Python of a local stack, before all else

CLEAN = ("apps", "benchmarks", "emulation", "kuberay", "runtime_env", "scripts", "tests")
"""Folders that keep to the standard words."""
OLD_NAMES = {
    *(
        "Question",
        "Exchange",
        "Account",
        "Keeper",
        "Guarded",
        "Turn",
        "Departure",
        "Gate",
        "HeldSlice",
        "PassingError",
        "Patient",
    ),
    *("LOOK_S", "SAY_EVERY_S", "ANYBODY", "NOBODY", "GIVERS", "look", "say", "speaks_of_the_inside", "hold_slice", "set_aside"),
    *("give", "bring", "agreement", "taken_over", "carry_out", "honesty", "together", "alone", "played"),
    *("one", "found", "said", "told", "looked"),
}
"""Names of modules, functions, classes, variables and attributes, without leading underscores, that standard ones replaced."""
OLD_FUNCTIONS = {"correct", "guess", "learn", "complete"}
"""Names that no function has any more; a variable may have them."""
OLD_LIMIT = re.compile(r"(^|_)most(_|$)", re.IGNORECASE)
"""A limit is called MAX or max."""
OPENINGS = ("Of", "For", "By", "With", "As", "To", "So")
"""A docstring opens with a verb or a noun phrase, not with one of these."""

HAPROXY = "runtime_env/haproxy/__main__.py"  # a program of its own that starts fast, so without the apps


def modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in ALLOWED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def attributes(tree: ast.Module) -> Iterator[str]:
    """Dotted names of Ray's in the code, such as `ray._private.worker`: they need no import of their own."""
    dotted = (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_dotted(node))
    yield from (name for name in dotted if name.startswith("ray."))


def _is_dotted(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _is_dotted(node.value))


def imports_in_strings(tree: ast.Module) -> Iterator[str]:
    """What a program in a string (`python -c`) imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            with contextlib.suppress(SyntaxError):
                yield from imports(ast.parse(textwrap.dedent(node.value)))


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_no_module_and_no_package_is_in_a_circle() -> None:
    """Also within a room: a package here is a folder of two levels, such as `apps.slice`."""
    known = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): tree for path, tree in modules()}
    modules_graph = {
        name: {other for other in imports(tree) if other in known and not within(name, other)} for name, tree in known.items()
    }
    packages: dict[str, set[str]] = {}
    for name, others in modules_graph.items():
        above = {".".join(other.split(".")[:2]) for other in others}
        packages.setdefault(".".join(name.split(".")[:2]), set()).update(above)
    for graph in (modules_graph, {name: others - {name} for name, others in packages.items()}):
        graphlib.TopologicalSorter(graph).prepare()


def test_imports_go_one_way() -> None:
    ours = {*ALLOWED, "scripts", "tests"}
    offenders = [
        f"{path} imports {name}"
        for path, tree in modules()
        for name in imports(tree)
        if (top := name.split(".")[0]) in ours and top != path.split("/")[0]
        if not any(within(name, allowed) for allowed in ALLOWED[path.split("/")[0]])
    ]
    assert offenders == []


def test_private_and_heavy_packages_have_one_door() -> None:
    offenders = [
        f"{path} imports {name}"
        for path, tree in modules()
        for name in [*imports(tree), *attributes(tree), *imports_in_strings(tree)]
        for package, doors in PRIVATE.items()
        if within(name, package) and path not in doors
    ]
    assert offenders == []


def test_the_environment_is_read_in_one_module() -> None:
    reads = [
        f"{path}:{node.lineno}"
        for path, tree in modules()
        if path not in ("apps/common/settings.py", HAPROXY, SITE, *SETTERS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    ]
    assert reads == []


def test_the_pure_core_imports_neither_ray_nor_yaml_nor_the_network() -> None:
    banned = ("ray", "yaml", "httpx", "openai", "urllib", "requests", "socket", "fsspec")
    trees = dict(modules())
    pure = [f"{folder}/{name}.py" for folder, names in PURE.items() for name in names]
    offenders = [f"{path} imports {name}" for path in pure for name in imports(trees[path]) if name.split(".")[0] in banned]
    assert offenders == []


def test_entry_modules_leave_annotations_alone() -> None:
    """Ray converts a builder's args by its annotation, which `from __future__ import annotations` turns into a string."""
    entries = [(path, tree) for path, tree in modules() if any(getattr(n, "name", "") == "build_app" for n in tree.body)]
    assert len(entries) >= 2
    assert [path for path, tree in entries if "__future__" in set(imports(tree))] == []


def test_modules_stay_small() -> None:
    long = {p: n for p, _ in modules() if (n := len((ROOT / p).read_text().splitlines())) > 250}
    assert long == {}


def clean_modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in CLEAN:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def defined_names(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Names that a module itself defines, and where; those of libraries that it only uses do not count."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node, name
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield node, name


def is_old(node: ast.AST, name: str) -> bool:
    bare = name.lstrip("_")
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and bare in OLD_FUNCTIONS:
        return True
    return bare in OLD_NAMES or bool(OLD_LIMIT.search(bare))


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Docstrings of modules, classes and functions, and the strings below a constant or a field."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(lineno=line, value=ast.Constant(value=str(text))):
                yield line, text


def test_old_names_do_not_come_back() -> None:
    offenders = [
        f"{path}:{getattr(node, 'lineno', 0)} {name}"
        for path, tree in clean_modules()
        for node, name in defined_names(tree)
        if is_old(node, name)
    ]
    assert offenders == []
    assert [path for path, _ in clean_modules() if Path(path).stem in OLD_NAMES] == []


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    offenders = [
        f"{path}:{line} {text.split(maxsplit=3)[:3]}"
        for path, tree in clean_modules()
        for line, text in docstrings(tree)
        if text.strip() and text.split()[0].rstrip(",:") in OPENINGS
    ]
    assert offenders == []
