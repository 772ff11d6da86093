"""Run `up` and `down`: the order of the steps, and what they print on the terminal."""

import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from apps.common.command_line import reports_errors
from apps.common.errors import OperationError, UserError
from apps.common.progress_line import Progress
from apps.guard.keyfile import change_keys, make_key, read_keys, utc_now
from emulation.hosts import config, cpu, head, hosts, model, preflight, processes, record, staged, token, watch
from emulation.hosts.options import DownOptions, HostOptions, UpOptions
from emulation.hosts.record import StackRecord

_START_DEADLINE_S = 600


@reports_errors()
def run(options: UpOptions | DownOptions | HostOptions) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed, 2 the input or the machine does not allow it."""
    if isinstance(options, HostOptions):
        return hosts.change(options.port, options.host, start=options.start)
    return _up(options) if isinstance(options, UpOptions) else _down(options)


def _up(options: UpOptions) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    with record.exclusive(options.port):
        running = _running_record(options.port)
        if running:
            return _already_up(running, options)
        started = time.monotonic()
        with Progress() as progress:
            stack, ray_head = _start(options, progress)
        print(_summary(stack, time.monotonic() - started), flush=True)
    if options.detach:
        return 0
    return _wait_for_end(stack, ray_head)


def _start(options: UpOptions, progress: Progress) -> tuple[StackRecord, head.Head]:
    preflight.check_machine(root := preflight.temp_root(), vllm=options.engine != "sim")
    preflight.check_port(options.port, "--port")
    preflight.check_port(options.dashboard_port, "--dashboard-port")
    if options.keys:
        read_keys(Path(options.keys))
    temp_dir = Path(tempfile.mkdtemp(prefix="rts-", dir=root))
    try:
        serve_config = _config(options, progress, temp_dir)
        if options.keys:
            serve_config = _guarded(serve_config, Path(options.keys), temp_dir)
        ports = (options.port, options.dashboard_port)
        ray_head = head.start_head(temp_dir, *ports, classic=options.classic, redis=options.redis)
    except BaseException:
        shutil.rmtree(temp_dir, ignore_errors=True)
        raise
    model_id, source = config.served_model(serve_config)
    stack = StackRecord(
        ray_head.process.pid,
        *ports,
        model_id,
        source,
        options.classic,
        str(temp_dir),
        ray_head.first_port,
        redis=options.redis,
    )
    try:
        record.write_record(stack)
        if options.slices:
            hosts.start_slices(stack, options.slices, options.absent)
        _deploy(stack, serve_config, ray_head, progress)
    except OperationError as error:
        _stop(stack)
        raise OperationError(f"{error}\nNothing is left running; the logs are in {temp_dir}") from error
    except BaseException:
        _stop(stack)
        shutil.rmtree(temp_dir, ignore_errors=True)
        raise
    return stack, ray_head


def _guarded(serve_config: dict[str, Any], keys_file: Path, temp_dir: Path) -> dict[str, Any]:
    """Add the guard, with a key of the stack's own, made here, for its test request."""
    text, id, entry = make_key({"name": "first-answer"}, utc_now())
    own_keys, own_key = temp_dir / "own-keys.json", StackRecord.own_key_in(temp_dir)
    change_keys(own_keys, lambda table: table.with_entry(id, entry))
    own_key.touch(0o600)
    own_key.write_text(text + "\n")
    return config.with_guard(serve_config, [keys_file.absolute(), own_keys])


def _config(options: UpOptions, progress: Progress, temp_dir: Path) -> dict[str, Any]:
    if options.engine == "sim":
        chosen_config = config.load(Path(options.config)) if options.config else config.emulated()
        emulated = config.with_port(chosen_config, options.port)
        return config.with_weights(emulated, *staged.stage_here(staged.stand_in(temp_dir), temp_dir))
    local = config.with_port(config.load(Path(options.config or config.LOCAL_CONFIG)), options.port)
    serve_config = config.with_dtype(local, cpu.best_dtype(cpu.flags()))
    if options.engine == "cpu":
        serve_config = config.with_slice(serve_config, hosts.EMULATED)
    if options.model is None:
        progress.report("weights: Gemma 3 270M (converted once, then only checked)")
        weights = model.make_laptop_weights(temp_dir / "weights.log")
        if options.engine == "cpu":
            progress.report("weights: staging them for the slice's hosts")
            return config.with_weights(serve_config, *staged.stage_here(weights, temp_dir))
        return serve_config
    progress.report(f"weights: {options.model}")
    chosen = model.chosen_model(options.model)
    own_template = config.has_chat_template(chosen.directory)
    return config.with_model(serve_config, chosen.id, str(chosen.directory), own_template=own_template)


def _deploy(stack: StackRecord, serve_config: dict[str, Any], ray_head: head.Head, progress: Progress) -> None:
    path = Path(stack.temp_dir) / "serve.yaml"
    path.write_text(yaml.safe_dump(serve_config, sort_keys=False))
    deadline, starts = time.time() + _START_DEADLINE_S, Counter[str]()

    def report(text: str) -> None:
        if time.time() > deadline:
            raise OperationError(f"not ready after {_START_DEADLINE_S} s, last status: {text}")
        hosts.restart_exited(stack.port, starts)
        progress.report(text)

    with watch.deploying(ray_head, stack.dashboard_url, path, deadline) as deploy:
        watch.wait_until_serving(ray_head, deploy, stack.dashboard_url, report)
    progress.report("sending a test request")
    watch.send_test_request(stack.api_url, stack.model_id, stack.own_key())


def _already_up(running: StackRecord, options: UpOptions) -> int:
    if options.classic != running.classic or (options.model and not _same_model(options.model, running)):
        raise UserError(
            f"port {running.port} already serves {running.model_id} ({'classic' if running.classic else 'direct'} path): "
            f"stop it first with scripts/stop_local.sh --port {running.port}, or choose another --port"
        )
    if options.keys and running.own_key() is None:
        raise UserError(f"port {running.port} already serves without keys: stop it first, or choose another --port")
    watch.send_test_request(running.api_url, running.model_id, running.own_key())
    print(f"It is up already.\n{_summary(running, None)}")
    return 0


def _same_model(wanted: str, running: StackRecord) -> bool:
    return wanted == running.model_id or str(Path(wanted).expanduser().resolve()) == running.model_source


def _running_record(port: int) -> StackRecord | None:
    """The record on that port if its head runs; what a stack without a head has left is stopped and removed.

    Raises:
        UserError: the head is gone, but may come back to a model that still runs.
    """
    stack = record.read_record(port)
    if stack and not hosts.head_runs(stack):
        if stack.redis and processes.find([*stack.hosts.values()], Path(stack.temp_dir)):
            raise UserError(
                f"the stack on port {port} has lost its head, and its hosts wait for it: --start-host head brings it back, "
                "--stop stops all"
            )
        _stop(stack)
        shutil.rmtree(stack.temp_dir, ignore_errors=True)
        return None
    return stack


def _wait_for_end(stack: StackRecord, ray_head: head.Head) -> int:
    print("Ctrl-C stops it.", flush=True)
    try:
        code = ray_head.process.wait()
        print(f"error: Ray's head exited by itself with code {code}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it running
        print("\nStopping ...", flush=True)
        with record.exclusive(stack.port):
            _stop(stack)
            shutil.rmtree(stack.temp_dir, ignore_errors=True)


def _down(options: DownOptions) -> int:
    stacks = [r for r in record.all_records() if options.port in (None, r.port)]
    if not stacks:
        print(f"nothing is running{f' on port {options.port}' if options.port else ''}")
        return 0
    if len(stacks) > 1 and not options.all:
        ports = ", ".join(str(r.port) for r in stacks)
        raise UserError(f"several stacks run (ports {ports}): give one with --port, or --all")
    for stack in stacks:
        with record.exclusive(stack.port):
            _stop(stack)
            shutil.rmtree(stack.temp_dir, ignore_errors=True)
        print(f"stopped the stack on port {stack.port}")
    return 0


def _stop(stack: StackRecord) -> None:
    stack = record.read_record(stack.port) or stack  # hosts may have joined since
    try:
        processes.stop_all(stack.session_ids, Path(stack.temp_dir))
    except TimeoutError as error:
        raise OperationError(str(error)) from error
    if stack.redis and not head.forget_state(stack.redis, Path(stack.temp_dir)):
        print(f"the Redis at {stack.redis} could not be cleared of {Path(stack.temp_dir).name}:*", file=sys.stderr)
    record.remove_record(stack.port)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _summary(stack: StackRecord, seconds: float | None) -> str:
    ready = f"Ready after {seconds:.0f} s.\n" if seconds is not None else ""
    place = token.where(head.stack_environment(Path(stack.temp_dir), stack.first_port, classic=stack.classic))
    ray_commands = f"  Ray CLI    export {token.MODE}=token; `serve` and `ray` then send that token\n"
    key = "-H 'authorization: Bearer KEY' " if stack.own_key() else ""
    body = json.dumps(
        {"model": stack.model_id, "messages": [{"role": "user", "content": "At what temperature does water boil?"}]}
    )
    return (
        f"{ready}  API        {stack.api_url}   (model {stack.model_id})\n"
        f"  Chat       {stack.chat_url}{'   (log in with a key)' if key else ''}\n"
        f"  Dashboard  {stack.dashboard_url}{f'   (asks for the token {place})' if place else ''}\n"
        f"{ray_commands if place else ''}"
        f"  Try        curl {stack.api_url}/chat/completions -H 'content-type: application/json' {key}-d '{body}'"
    )
