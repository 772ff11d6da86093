"""Run `up` and `down`: the order of the steps, and what they print on the terminal."""

import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from apps.common.command_line import reports_errors
from apps.common.errors import OperationError, UserError
from apps.common.progress_line import Progress
from apps.guard.keyfile import read_keys
from emulation.hosts import config, engines, head, hosts, preflight, processes, record, token, tpu_engine, watch
from emulation.hosts.options import DownOptions, HostOptions, UpOptions
from emulation.hosts.record import StackRecord

_START_S = {"tpu": 1800}  # six processes import the engine, one after another where there are two cores
_OTHER_START_S = 600
_TEST_REQUEST_S = 60


@reports_errors()
def run(options: UpOptions | DownOptions | HostOptions, arguments: Sequence[str]) -> int:
    """Run one command, which has these arguments. Returns the exit code: 0 done, 1 failed, 2 the input or the machine does not
    allow it."""
    if isinstance(options, HostOptions):
        return _change_host(options, arguments)
    if isinstance(options, DownOptions):
        return _down(options)
    if options.engine == "tpu":
        tpu_engine.enter(arguments, lambda text: print(text, file=sys.stderr))
    return _up(options)


def _change_host(options: HostOptions, arguments: Sequence[str]) -> int:
    stack = record.read_record(options.port)
    if stack and stack.python != sys.executable:
        tpu_engine.go_on_as(Path(stack.python), arguments)  # a host has the Python of its stack
    return hosts.change(options.port, options.host, start=options.start)


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
    preflight.check_machine(root := preflight.temp_root(), engine=options.engine or "cpu")
    preflight.check_port(options.port, "--port")
    preflight.check_port(options.dashboard_port, "--dashboard-port")
    if options.keys:
        read_keys(Path(options.keys))
    temp_dir = Path(tempfile.mkdtemp(prefix="rts-", dir=root))
    try:
        serve_config = engines.serve_config(options, progress, temp_dir)
        if options.keys:
            serve_config = engines.guarded(serve_config, Path(options.keys), temp_dir)
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
        _deploy(stack, serve_config, ray_head, progress, _START_S.get(options.engine or "", _OTHER_START_S))
    except OperationError as error:
        _stop(stack)
        raise OperationError(f"{error}\nNothing is left running; the logs are in {temp_dir}") from error
    except BaseException:
        _stop(stack)
        shutil.rmtree(temp_dir, ignore_errors=True)
        raise
    return stack, ray_head


def _deploy(
    stack: StackRecord, serve_config: dict[str, Any], ray_head: head.Head, progress: Progress, deadline_s: float
) -> None:
    path = Path(stack.temp_dir) / "serve.yaml"
    path.write_text(yaml.safe_dump(serve_config, sort_keys=False))
    deadline, starts = time.time() + deadline_s, Counter[str]()

    def report(text: str) -> None:
        if time.time() > deadline:
            raise OperationError(f"not ready after {deadline_s} s, last status: {text}")
        hosts.restart_exited(stack.port, starts)
        progress.report(text)

    with watch.deploying(ray_head, stack.dashboard_url, path, deadline) as deploy:
        watch.wait_until_serving(ray_head, deploy, stack.dashboard_url, report)
    progress.report("sending a test request")
    left_s = deadline - time.time()  # the first request may be the first that compiles
    watch.send_test_request(stack.api_url, stack.model_id, stack.own_key(), max(_TEST_REQUEST_S, left_s))


def _already_up(running: StackRecord, options: UpOptions) -> int:
    if options.classic != running.classic or (options.model and not _same_model(options.model, running)):
        raise UserError(
            f"port {running.port} already serves {running.model_id} ({'classic' if running.classic else 'direct'} path): "
            f"stop it first with scripts/stop_local.sh --port {running.port}, or choose another --port"
        )
    if options.keys and running.own_key() is None:
        raise UserError(f"port {running.port} already serves without keys: stop it first, or choose another --port")
    watch.send_test_request(running.api_url, running.model_id, running.own_key(), _TEST_REQUEST_S)
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
    return (
        f"{ready}  API        {stack.api_url}   (model {stack.model_id})\n"
        f"  Chat       {stack.chat_url}{'   (log in with a key)' if key else ''}\n"
        f"  Dashboard  {stack.dashboard_url}{f'   (asks for the token {place})' if place else ''}\n"
        f"{ray_commands if place else ''}"
        f"  Try        curl {stack.api_url}/chat/completions -H 'content-type: application/json' {key}\\\n"
        f'               -d \'{{"model": "{stack.model_id}", "messages": '
        f'[{{"role": "user", "content": "Water boils at"}}], "max_tokens": 32}}\''
    )
