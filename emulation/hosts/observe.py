"""Run the system's Prometheus on a local stack (`scripts/observe_local.sh`), with this project's alerts and dashboards."""

import argparse
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import yaml

from apps.common.command_line import reports_errors
from apps.common.errors import OperationError, UserError
from apps.common.option_types import factor, port, seconds
from emulation.hosts import preflight, processes, record
from emulation.hosts.record import StackRecord
from kuberay.observability.dashboards import dashboards, to_console
from kuberay.observability.rules import rules, shrunk

_WINDOW = "1m"
_MIN_EXPORTS = 3  # that a window of a trial spans
_START_S = 30


@reports_errors()
def main(argv: Sequence[str]) -> int:
    """Run Prometheus until Ctrl-C. Exit codes: 0 stopped, 1 it failed, 2 the input or the machine does not allow it."""
    options = _parser().parse_args(argv)
    stack = _stack(options.port)
    program = shutil.which("prometheus")
    if program is None:
        raise UserError("prometheus is not installed: apt-get install prometheus (Debian), or from prometheus.io")
    preflight.check_port(options.prometheus_port, "--prometheus-port")
    with tempfile.TemporaryDirectory(prefix="rts-observe-") as directory:
        write_files(Path(directory), stack, options.trial, options.export_interval)
        return _run(program, Path(directory), options.prometheus_port)


def write_files(directory: Path, stack: StackRecord, trial: float, export_s: float) -> None:
    """Write what Prometheus reads at its start: its configuration, and the rules (times divided by `trial`)."""
    groups = rules() if trial == 1 else shrunk(rules(), trial, math.ceil(_MIN_EXPORTS * export_s))
    (directory / "alerts.yaml").write_text(yaml.safe_dump(groups))
    hosts = Path(stack.temp_dir) / "ray" / "prom_metrics_service_discovery.json"  # kept up to date by Ray's head
    every = f"{max(1, round(500 * export_s))}ms"  # twice in an export
    scrape = {"job_name": "ray", "file_sd_configs": [{"files": [str(hosts)], "refresh_interval": every}]}
    intervals = {"scrape_interval": every, "evaluation_interval": every}
    config = {"global": intervals, "rule_files": ["alerts.yaml"], "scrape_configs": [scrape]}
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    (directory / "consoles").mkdir()


def _write_pages(directory: Path, alerts: str) -> None:
    """Write a page for each dashboard, which Prometheus reads when it is asked for; each links to the alerts."""
    for dashboard in dashboards():
        (directory / f"{dashboard.name}.html").write_text(to_console(dashboard, dashboards(), _WINDOW, alerts))


def alerts_page(url: str) -> str:
    """The path of Prometheus's own alerts: Debian's package has only the classic pages."""
    return "/alerts" if httpx.get(f"{url}/alerts", timeout=5, follow_redirects=True).is_success else "/classic/alerts"


def _run(program: str, directory: Path, own_port: int) -> int:
    url = f"http://{preflight.LOOPBACK}:{own_port}"
    command = [
        *(program, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"),
        *(f"--web.listen-address={preflight.LOOPBACK}:{own_port}", "--storage.tsdb.retention.time=1d", "--log.level=warn"),
        *(f"--web.console.templates={directory}/consoles", f"--web.console.libraries={directory}/consoles"),
    ]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as on Ctrl-C
    process = subprocess.Popen(command)
    try:
        wait_until_ready(process, url)
        alerts = alerts_page(url)
        _write_pages(directory / "consoles", alerts)
        pages = "\n".join(f"  {dashboard.title:<18} {url}/consoles/{dashboard.name}.html" for dashboard in dashboards())
        print(f"{pages}\n  {'Alerts':<18} {url}{alerts}\nCtrl-C stops it.", flush=True)
        code = process.wait()
        raise OperationError(f"Prometheus exited by itself with code {code}")
    except KeyboardInterrupt:
        return 0
    finally:
        process.terminate()
        process.wait(_START_S)


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    """Return when Prometheus answers. Raises `OperationError` where it ends or does not in time."""
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/-/ready", timeout=5).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise OperationError(f"Prometheus did not become ready within {_START_S} s (its own message is above)")


def _stack(wanted: int | None) -> StackRecord:
    stacks = [stack for stack in record.all_records() if wanted in (None, stack.port) and _lives(stack)]
    if len(stacks) == 1:
        return stacks[0]
    if not stacks:
        raise UserError("no local stack runs: start one with scripts/serve_local.sh or scripts/emulated_slice.sh")
    raise UserError(f"several stacks run (ports {', '.join(str(stack.port) for stack in stacks)}): give one with --port")


def _lives(stack: StackRecord) -> bool:
    return bool(processes.find(stack.session_ids, Path(stack.temp_dir)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/observe_local.sh",
        description="Dashboards and alerts of a running local stack, by Prometheus. Loopback only.",
    )
    parser.add_argument("--port", type=port, help="port of the stack's API (needed only if several run)")
    parser.add_argument("--prometheus-port", type=port, default=9090, help="port of Prometheus (default: %(default)s)")
    parser.add_argument(
        "--trial",
        type=factor,
        default=1,
        metavar="N",
        help="divide all windows and waits of the alerts by N, to see them fire in minutes (none under three exports)",
    )
    parser.add_argument(
        "--export-interval",
        type=seconds,
        default=10,
        metavar="SECONDS",
        help="how often the stack exports, if RAY_metrics_report_interval_ms was set at its start (default: Ray's %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
