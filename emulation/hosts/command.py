"""Run `up` and `down`: the order of the steps, and what they print on the terminal."""

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from apps.common import serve_status
from apps.common.command_line import reports_errors
from apps.common.errors import OperationError, UserError
from apps.common.progress_line import Progress
from apps.guard.keyfile import read_keys
from emulation.hosts import chosen, config, head, hosts, preflight, processes, record, tpu_engine, watch
from emulation.hosts.options import DownOptions, HostOptions, UpOptions
from emulation.hosts.record import StackRecord
from emulation.hosts.summary import summary

_START_S = {"tpu": 1800}  # six processes import the engine, one after another where there are two cores
_OTHER_START_S = 600
_WATCH_S = 5
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
    for number in (signal.SIGTERM, signal.SIGHUP):  # the latter when the terminal is closed, and not below nohup
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    with record.exclusive(options.port):
        running = _running_record(options.port)
        if running:
            return _already_up(running, options)
        started = time.monotonic()
        with Progress() as progress:
            stack, ray_head, failed = _start(options, progress)
        print(summary(stack, time.monotonic() - started), *(f"warning: {why}" for why in failed), sep="\n", flush=True)
    if options.detach:
        print(f"It runs in the background: scripts/stop_local.sh --port {stack.port} stops it.")
        return 0
    return _wait_for_end(stack, ray_head)


def _start(options: UpOptions, progress: Progress) -> tuple[StackRecord, head.Head, list[str]]:
    preflight.check_start(options)
    if options.keys:
        read_keys(Path(options.keys))
    temp_dir = Path(tempfile.mkdtemp(prefix="rts-", dir=preflight.temp_root()))
    try:
        started_with = chosen.started_with(options)
        serve_config = chosen.serve_config_for(options, progress, temp_dir)
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
        started_with=started_with,
    )
    try:
        record.write_record(stack)
        if options.slices:
            hosts.start_slices(stack, options.slices, options.absent)
        failed = _deploy(stack, serve_config, ray_head, progress, _START_S.get(options.engine or "", _OTHER_START_S))
        record.set_ready(stack.port)
    except OperationError as error:
        _stop(stack)
        raise OperationError(f"{error}\nNothing is left running; the logs are in {temp_dir}") from error
    except BaseException:
        _stop(stack)
        shutil.rmtree(temp_dir, ignore_errors=True)
        raise
    return stack, ray_head, failed


def _deploy(
    stack: StackRecord, serve_config: dict[str, Any], ray_head: head.Head, progress: Progress, deadline_s: float
) -> list[str]:
    """Deploy the config, and wait for an answer of its model. Returns why other apps have failed."""
    path = Path(stack.temp_dir) / "serve.yaml"
    path.write_text(yaml.safe_dump(serve_config, sort_keys=False))
    deadline, starts = time.time() + deadline_s, Counter[str]()

    def report(text: str) -> None:
        if time.time() > deadline:
            raise OperationError(f"not ready after {deadline_s} s, last status: {text}")
        hosts.restart_exited(stack.port, starts)
        progress.report(text)

    with watch.deploying(ray_head, stack.dashboard_url, path, deadline) as deploy:
        failed = watch.wait_until_serving(ray_head, deploy, stack.dashboard_url, config.model_apps(serve_config), report)
    progress.report("sending a test request")
    left_s = deadline - time.time()  # the first request may be the first that compiles
    watch.send_test_request(stack.api_url, stack.model_id, stack.own_key(), max(_TEST_REQUEST_S, left_s))
    return failed


def _already_up(running: StackRecord, options: UpOptions) -> int:
    stop = f"stop it first with scripts/stop_local.sh --port {running.port}, or choose another --port"
    if options.model and not _same_model(options.model, running):
        raise UserError(f"port {running.port} already serves {running.model_id}: {stop}")
    if other := [name for name, value in chosen.started_with(options).items() if running.started_with.get(name) != value]:
        raise UserError(f"port {running.port} already serves {running.model_id} with another {', '.join(other)}: {stop}")
    if options.keys and running.own_key() is None:
        raise UserError(f"port {running.port} already serves without keys: {stop}")
    watch.send_test_request(running.api_url, running.model_id, running.own_key(), _TEST_REQUEST_S)
    print(f"It is up already.\n{summary(running, None)}")
    return 0


def _same_model(wanted: str, running: StackRecord) -> bool:
    return wanted == running.model_id or str(Path(wanted).expanduser().resolve()) == running.model_source


def _running_record(port: int) -> StackRecord | None:
    """The record on that port if its head runs; what a lost head, or a start that was killed, has left is stopped and removed.

    Raises:
        UserError: the head is gone, but may come back to a model that still runs.
    """
    stack = record.read_record(port)
    if stack and not (stack.ready and hosts.head_runs(stack)):
        if stack.ready and stack.redis and processes.find([*stack.hosts.values()], Path(stack.temp_dir)):
            raise UserError(
                f"the stack on port {port} has lost its head, and its hosts wait for it: --start-host head brings it back, "
                f"scripts/stop_local.sh --port {port} stops all"
            )
        _stop(stack)
        shutil.rmtree(stack.temp_dir, ignore_errors=True)
        return None
    return stack


def _wait_for_end(stack: StackRecord, ray_head: head.Head) -> int:
    print("Ctrl-C stops it.", flush=True)
    state = None
    try:
        while ray_head.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                ray_head.process.wait(_WATCH_S)
            state = _report_change(state, watch.applications(ray_head, stack.dashboard_url))
        print(f"error: Ray's head exited by itself: {watch.reason(ray_head.log)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGHUP):  # a second Ctrl-C must not leave half of it running
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):  # the terminal may be gone
            print("\nStopping ...", flush=True)
        with record.exclusive(stack.port):
            _stop(stack)
            shutil.rmtree(stack.temp_dir, ignore_errors=True)


def _report_change(before: str | None, apps: serve_status.Applications) -> str | None:
    """Tell when an app is lost, and when it is back: Ray replaces what has ended, also when another program took its memory."""
    if not apps:
        return before
    now = "all apps run" if serve_status.all_running(apps) else serve_status.failure(apps) or serve_status.waiting_for(apps)
    if before not in (None, now):
        print(f"{now}{'' if serve_status.all_running(apps) else '; Ray starts again what has ended'}", flush=True)
    return now


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
