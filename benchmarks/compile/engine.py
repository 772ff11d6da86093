"""The process that compiles, in the TPU engine's own environment: `python -m benchmarks.compile.engine`.

Reads a request as a line of JSON and writes events as lines of JSON: `engine` (memory of the model), `plan` (all programs of a
start); then reads which of them to compile, and writes `program` or `failed` for each. The engine logs to standard error.
"""

import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import jax
from jax.experimental import topologies

from benchmarks.compile.described import describe_devices, shard_bytes
from benchmarks.compile.hlo import collectives, failure

_FRONT_END = ("enable_auto_tool_choice", "tool_call_parser", "reasoning_parser", "chat_template")  # of vLLM's server


@dataclasses.dataclass(frozen=True)
class Program:
    """One that a start compiles; `sizes` are its shapes as the engine calls them (`num_tokens`, `num_reqs`)."""

    name: str
    sizes: Mapping[str, Any]
    function: Any
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "tokens": self.sizes.get("num_tokens"), "sizes": {k: str(v) for k, v in self.sizes.items()}}


class Engine:
    """vLLM TPU's model runner over described devices, with its weights and KV cache laid out."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._programs: list[Program] = []
        self._weight_bytes = 0
        self._hbm_bytes: int = request["hbm_bytes"]
        describe_devices(request["tpu_version"], self._hbm_bytes, lambda: self._weight_bytes, self._record)
        self._devices = list(topologies.get_topology_desc(platform="tpu", topology_name=request["topology"]).devices)
        self._config = _engine_config(request)
        self._runner = self._load()
        self._lay_out_cache()

    def memory(self) -> dict[str, Any]:
        """Bytes and tokens of one chip."""
        leaves, blocks, size = self._runner.state_leaves, self._config.cache_config.num_gpu_blocks, self._runner.block_size
        cache_bytes = sum(shard_bytes(array) for array in self._runner.kv_caches)
        return {
            "parameters": sum(leaf.size for leaf in leaves),
            "weights_bytes_per_chip": self._weight_bytes,
            "kv_bytes_per_token_per_chip": cache_bytes / (blocks * size),
            "kv_tokens": blocks * size,
            "kv_block_tokens": size,
            "hbm_bytes": self._hbm_bytes,
            "versions": {name: version(name) for name in ("vllm-tpu", "tpu-inference", "jax", "libtpu")},
        }

    def programs(self) -> list[Program]:
        """All that a start compiles, in its order."""
        manager = self._runner.compilation_manager
        manager._precompile_sampling()
        manager._precompile_gather_logprobs()
        self._runner.capture_model()
        return self._programs

    def lower(self, program: Program) -> Any:
        """The program in the compiler's input form."""
        with jax.set_mesh(self._runner.mesh):
            return program.function.lower(*program.arguments, **program.options)

    def compile(self, lowered: Any) -> Any:
        """Compile what was lowered. Safe in a thread of its own."""
        with jax.set_mesh(self._runner.mesh):
            return lowered.compile()

    def _record(self, name: str, function: Any, *arguments: Any, call_kwargs: Any = None, **more: Any) -> None:
        options = dict(call_kwargs or {})
        while hasattr(function, "func"):  # functools.partial
            arguments, options = function.args + arguments, {**function.keywords, **options}
            function = function.func
        if not hasattr(function, "lower"):  # a closure around the jitted function
            function = next(cell.cell_contents for cell in function.__closure__ if hasattr(cell.cell_contents, "lower"))
        sizes = {key: value for key, value in more.items() if isinstance(value, int | str | tuple) and key != "aot"}
        self._programs.append(Program(name.removeprefix("worker0 "), sizes, function, arguments, options))

    def _load(self) -> Any:
        from tpu_inference.distributed.jax_parallel_state import init_pp_distributed_environment
        from tpu_inference.runner.tpu_runner import TPUModelRunner

        init_pp_distributed_environment("localhost", 0, 1, None, need_pp=False)
        runner = TPUModelRunner(self._config, self._devices, 0, True, True)
        runner.load_model()
        self._weight_bytes = sum(shard_bytes(leaf) for leaf in runner.state_leaves)
        return runner

    def _lay_out_cache(self) -> None:
        """Size the KV cache as a start does (vLLM's engine core), from what the weights leave."""
        from vllm.config import set_current_vllm_config
        from vllm.v1.attention.backends.utils import record_kv_cache_layout, resolve_kv_cache_layout
        from vllm.v1.core.kv_cache_utils import get_kv_cache_configs
        from vllm.v1.worker.worker_base import WorkerBase

        config, cache = self._config, self._config.cache_config
        self._context = set_current_vllm_config(config)
        self._context.__enter__()  # for as long as the process lives
        free = int(self._hbm_bytes * cache.gpu_memory_utilization) - self._weight_bytes
        if free <= 0:
            raise ValueError(f"the weights alone do not fit: {-free / 2**30:.1f} GiB too much on each chip")
        spec = self._runner.get_kv_cache_spec()
        layouts = WorkerBase.get_supported_kv_cache_layouts(SimpleNamespace(vllm_config=config))
        record_kv_cache_layout(cache, resolve_kv_cache_layout(config, [layouts], spec.values()).name)
        sized = get_kv_cache_configs(config, [spec], [free * len(self._devices)])[0]
        sized.kv_cache_layout = cache.kv_cache_layout
        cache.num_gpu_blocks = sized.num_blocks
        self._runner.initialize_kv_cache(sized)


def _engine_config(request: Mapping[str, Any]) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    arguments = {key: value for key, value in request["engine_kwargs"].items() if key not in _FRONT_END}
    arguments.pop("distributed_executor_backend", None)  # one process builds the runner here
    if layers := request["layers"]:
        config = json.loads(Path(request["model"], "config.json").read_text())
        cut = {"num_hidden_layers": layers}
        if kinds := config.get("text_config", config).get("layer_types"):
            cut["layer_types"] = kinds[:layers]
        arguments["hf_overrides"] = {"text_config": cut} if "text_config" in config else cut
    return EngineArgs(model=request["model"], load_format="dummy", **arguments).create_engine_config()


def facts_of(compiled: Any) -> dict[str, Any]:
    """Memory (bytes on a chip), collectives with their bytes, kernels and cost of a compiled program."""
    memory, text = compiled.memory_analysis(), compiled.as_text()
    cost = compiled.cost_analysis() or {}
    cost = cost[0] if isinstance(cost, list) else cost
    return {
        "fits": True,
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "collectives": collectives(text),
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "flops": cost.get("flops"),
        "bytes_accessed": cost.get("bytes accessed"),
    }


def compile_programs(engine: Engine, wanted: list[Program], threads: int) -> Iterator[dict[str, Any]]:
    """Facts of each program as soon as it is compiled; the next is lowered meanwhile."""

    def compiled(program: Program, lowered: Any, lower_s: float) -> dict[str, Any]:
        start = time.monotonic()
        try:
            facts = facts_of(engine.compile(lowered))
        except Exception as error:
            return {"event": "failed", **program.facts(), **failure(error)}
        seconds = {"lower_s": round(lower_s, 1), "compile_s": round(time.monotonic() - start, 1)}
        return {"event": "program", **program.facts(), **facts, **seconds}

    with ThreadPoolExecutor(threads) as pool:
        running: list[Future[dict[str, Any]]] = []
        for program in wanted:
            start = time.monotonic()
            try:
                lowered = engine.lower(program)
            except Exception as error:  # upstream goes on too, and compiles it when it is first called
                yield {"event": "failed", **program.facts(), **failure(error), "fits": None}
                continue
            running.append(pool.submit(compiled, program, lowered, time.monotonic() - start))
            while len(running) > threads or (running and running[0].done()):  # lowered programs take memory
                yield running.pop(0).result()
        for future in running:
            yield future.result()


def main(events: TextIO) -> None:
    """Compile what standard input asks for."""
    request = json.loads(sys.stdin.readline())

    def emit(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=events, flush=True)

    start = time.monotonic()
    try:
        engine = Engine(request)
    except (ValueError, TypeError, NotImplementedError, AttributeError, AssertionError) as error:
        emit({"event": "refused", "message": f"{type(error).__name__}: {error}"})
        return
    emit({"event": "engine", **engine.memory(), "build_s": round(time.monotonic() - start, 1)})
    programs = engine.programs()
    emit({"event": "plan", "programs": [program.facts() for program in programs]})
    wanted = json.loads(sys.stdin.readline())
    for event in compile_programs(engine, [program for program in programs if program.facts() in wanted], request["threads"]):
        emit(event)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    emit({"event": "done", "seconds": round(time.monotonic() - start, 1), "peak_memory_bytes": peak})


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")  # the engine's own output must not get between the events
    os.dup2(2, 1)
    main(out)
