"""The direction of imports, and the places that private or heavy things may be imported from, read from the source by `ast`."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "apps": set(),
    "kuberay": {
        f"apps.{name}"
        for name in (
            "slice",
            "checks",
            "weights",
            "compile_cache.identity",
            "errors",
            "settings",
            "serve_status",
            "progress_line",
            "option_types",
        )
    },
    "runtime_env": {"apps", "kuberay.observability"},
    "benchmarks": {"apps", "runtime_env"},
}
PURE = [
    *(
        "apps/errors.py",
        "apps/imports.py",
        "apps/settings.py",
        "apps/llm_args.py",
        "apps/chat/args.py",
        "apps/serve_status.py",
    ),
    *(f"kuberay/{name}.py" for name in ("names", "quantity", "kinds", "agreement", "reasons", "rollout/effects")),
    *(f"kuberay/manifests/{name}.py" for name in ("pods", "ray", "network", "access", "operation")),
    *(f"apps/slice/{name}.py" for name in ("topology", "models", "memory", "roofline", "hosts", "replica")),
    *(f"apps/slice/{name}.py" for name in ("stages", "efficiency")),
    *(f"benchmarks/planner/{name}.py" for name in ("names", "candidates", "predict", "plan", "recommend", "case", "agreement")),
    *(f"benchmarks/planner/{name}.py" for name in ("plain", "hlo")),
    *(f"apps/weights/{name}.py" for name in ("receipt", "manifest", "crc32c", "retry", "share", "local_copy", "replica_args")),
    *(f"apps/checks/{name}.py" for name in ("findings", "schema", "arguments", "parallelism", "tpu_memory")),
    *(f"apps/checks/{name}.py" for name in ("llm_rules", "serve_rules")),
    *(
        f"apps/guard/{name}.py"
        for name in ("settings", "keys", "routes", "rates", "key_usage", "fair", "answers", "generation_request", "json_body")
    ),
    *(
        f"apps/guard/{name}.py"
        for name in (
            "fields",
            "engines",
            "field_rules",
            "verifier",
            "bodies",
            "caps",
            "response_tracker",
            "admission",
            "middleware",
            "command",
        )
    ),
    *(f"apps/engine/sim/{name}.py" for name in ("text", "cache", "faults", "scheduler", "protocol", "engine")),
    *(f"runtime_env/control_plane/played/{name}.py" for name in ("webhook_rules", "pod_status", "dns", "orders")),
    *(f"runtime_env/haproxy/{name}.py" for name in ("config", "servers")),
]
PRIVATE = {
    "ray.llm._internal": {"apps/engine/server.py", "apps/engine/callbacks.py", "apps/checks/refresh.py"},
    "ray.serve._private": "apps/loopback.py",
    "vllm": {"apps/engine/forked_core.py", "apps/engine/preload.py", "apps/checks/refresh.py"},
    "gradio": {"apps/chat/page.py", "apps/chat/site.py"},
    "fsspec": "apps/weights/store.py",
    "httptools": "benchmarks/serving/client.py",
    "kubernetes": "kuberay/api.py",
    "matplotlib": "benchmarks/report/plots.py",
    "tokenizers": "benchmarks/serving/words.py",
    "uvloop": {"benchmarks/serving/command.py", "benchmarks/overhead/rounds.py", "benchmarks/guard/server.py"},
    "python_client": "kuberay/clusters.py",
    "cryptography": "runtime_env/control_plane/pki.py",
    "jax": {f"benchmarks/planner/{name}.py" for name in ("program", "attention", "compile_cases")},
    "huggingface_hub": {"apps/weights/sources.py", "runtime_env/local/model.py", "benchmarks/weights_contenders.py"},
}


# They set variables for a child process, or for a library that is configured by them alone.
SETTERS = ("apps/engine/forked_core.py", "benchmarks/weights_contenders.py", "benchmarks/weights_slice.py")

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


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


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
        for name in imports(tree)
        for package, doors in PRIVATE.items()
        if within(name, package) and path not in ({doors} if isinstance(doors, str) else doors)
    ]
    assert offenders == []


def test_the_environment_is_read_in_one_module() -> None:
    reads = [
        f"{path}:{node.lineno}"
        for path, tree in modules()
        if path not in ("apps/settings.py", HAPROXY, *SETTERS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    ]
    assert reads == []


def test_the_pure_core_imports_neither_ray_nor_yaml_nor_the_network() -> None:
    banned = ("ray", "yaml", "httpx", "openai", "urllib", "requests", "socket", "fsspec")
    trees = dict(modules())
    offenders = [f"{path} imports {name}" for path in PURE for name in imports(trees[path]) if name.split(".")[0] in banned]
    assert offenders == []


def test_entry_modules_leave_annotations_alone() -> None:
    """Ray converts a builder's args by its annotation, which `from __future__ import annotations` turns into a string."""
    entries = [(path, tree) for path, tree in modules() if any(getattr(n, "name", "") == "build_app" for n in tree.body)]
    assert len(entries) >= 2
    assert [path for path, tree in entries if "__future__" in set(imports(tree))] == []


def test_modules_stay_small() -> None:
    long = {p: n for p, _ in modules() if (n := len((ROOT / p).read_text().splitlines())) > 250}
    assert long == {}
