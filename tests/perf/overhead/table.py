"""The table that a person reads: each server at each number of clients, and ratios to the bare one."""

from typing import Any

from rich.console import Console
from rich.table import Table

from tests.perf.overhead.rounds import LoadFigures, median

_NAMES = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "output_tok_per_s")


def print_table(result: dict[str, Any]) -> None:
    """Print the table of the object that `--json` prints."""
    table = Table(title=f"{result['engine']} engine, {result['cores']} cores, medians of {result['plan']['rounds']} rounds")
    columns = ("TTFT p50 ms", "TTFT p99 ms", "ITL p50 ms", "output tok/s", "of bare", "errors")
    for column in ("clients", "server", *columns):
        table.add_column(column, justify="right")
    rounds = {server: [LoadFigures(**figure) for figure in figures] for server, figures in result["rounds"].items()}
    for clients in map(int, result["plan"]["requests"]):
        for server, figures in rounds.items():
            errors = sum(figure.errors for figure in figures if figure.clients == clients)
            values = [f"{median(figures, clients, name):.1f}" for name in _NAMES]
            ratio = median(figures, clients, _NAMES[-1]) / median(rounds["bare"], clients, _NAMES[-1])
            table.add_row(str(clients), server, *values, f"{ratio:.2f}", str(errors))
        table.add_section()
    console = Console()
    console.print(table)
    for path, added in result["added"].items():
        console.print(
            f"{path}: TTFT {added['ttft_added_ms']:+.1f} ms at one client, {added['throughput_ratio']:.2f} of bare throughput "
            f"at {max(map(int, result['plan']['requests']))}; {result['idle_cores'][path]} cores when idle"
        )
