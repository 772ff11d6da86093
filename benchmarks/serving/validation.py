"""The honesty gate: what speaks against a run. A refused run's figures are not shown; a marked one's come with the reason."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.serving.figures import figures, mean_in_flight
from benchmarks.serving.limits import Limits, is_simulated, limits_of
from benchmarks.serving.result import Result, Run, Setting

_CACHE_SLACK = 0.02  # of the prompts' tokens: templates begin alike, and blocks end where they end
_WRONG_COUNTS = 0.001  # of the requests
_TOO_FEW, _FEW = 20, 100  # answers; the 99th percentile of fewer than 100 is their maximum
_BUSY = 0.85  # of a core; event loops are late from there on
_LAG_MS, _LAG_SHARE = 5.0, 0.1  # the client's lateness that matters: in itself, and of the TTFT at the same percentile
_ERRORS, _MANY_ERRORS = 0.01, 0.5  # of the requests
_UNREADABLE = 0.5  # of the tokens by usage, text that was found in sampled answers


@dataclass(frozen=True)
class Finding:
    """One reason against a run."""

    rule: str
    severity: Literal["refused", "marked"]
    reason: str

    def __str__(self) -> str:
        return f"{self.severity} ({self.rule}): {self.reason}"


def examine(setting: Setting, run: Run) -> list[Finding]:
    """All findings, the refusals first."""
    limits = limits_of(setting.llm_config)
    found = [
        *_figures(run),
        *_ceilings(run, limits),
        *_cache(run),
        *_prompts(run),
        *_counts(run),
        *_number(run),
        *_client(run),
        *_errors(run),
        *_setting(setting, limits),
    ]
    return sorted(found, key=lambda finding: finding.severity != "refused")


def best_rate(result: Result) -> float | None:
    """What a sweep found, unless the run that it rests on is refused."""
    runs = [run for run in result.runs if run.load.rate == result.best_rate and not is_refused(examine(result.setting, run))]
    return result.best_rate if runs else None


def is_refused(findings: list[Finding]) -> bool:
    return any(finding.severity == "refused" for finding in findings)


def _figures(run: Run) -> Iterator[Finding]:
    """They must follow from what was counted."""
    for name, value in figures(run).items():
        if run.figures.get(name) != value:
            reason = f"{name} is {run.figures.get(name)} in the file, and {value} follows from its counts"
            yield Finding("figures", "refused", reason)


def _ceilings(run: Run, limits: Limits | None) -> Iterator[Finding]:
    if limits is None:
        return
    prompt, figures = run.least_prompt_tokens or 0, run.figures
    together = limits.together(math.ceil(mean_in_flight(run)), prompt)
    yield from _refused(
        together.refusals(output_tok_per_s=figures["output_tok_per_s"], prompt_tok_per_s=figures["computed_prompt_tok_per_s"])
    )
    shares = run.checks.declared_shared_tokens or run.checks.cached_tokens
    alone = limits.alone(1 if shares else prompt)
    yield from _refused(alone.refusals(tpot_s=_seconds(figures["tpot_p50_ms"]), ttft_s=_seconds(run.ttft.least)))


def _refused(reasons: list[str]) -> Iterator[Finding]:
    return (Finding("ceiling", "refused", reason) for reason in reasons)


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


def _cache(run: Run) -> Iterator[Finding]:
    hits = run.figures["cache_hit_rate"]
    if hits is None:
        reason = "the server does not tell its prefix cache's hits, so they are only known to be what the prompts allow"
        yield Finding("cache", "marked", reason)
        return
    declared = run.checks.declared_shared_tokens / run.prompt_tokens
    if hits > declared + _CACHE_SLACK:
        reason = (
            f"{hits:.1%} of the prompts' tokens came from the prefix cache, and prompts that share {declared:.1%} were declared"
        )
        yield Finding("cache", "refused", reason)


def _prompts(run: Run) -> Iterator[Finding]:
    if repeated := run.checks.repeated_prompts:
        yield Finding("repeated", "refused", f"{repeated} of {run.sent} requests repeat an earlier prompt")


def _counts(run: Run) -> Iterator[Finding]:
    checks = run.checks
    if checks.without_usage:
        yield Finding("tokens", "refused", f"{checks.without_usage} answers came without the server's usage")
    if checks.wrong_counts:
        severe: Literal["refused", "marked"] = "refused" if checks.wrong_counts > _WRONG_COUNTS * run.completed else "marked"
        reason = f"token counts disagree in {checks.wrong_counts} of {run.completed} answers: {checks.wrong_count_example}"
        yield Finding("tokens", severe, reason)
    if checks.sampled_text_tokens < _UNREADABLE * checks.sampled_tokens:
        reason = f"the text of sampled answers has {checks.sampled_text_tokens} tokens, usage says {checks.sampled_tokens}"
        yield Finding("tokens", "marked", reason)


def _number(run: Run) -> Iterator[Finding]:
    if run.completed < _TOO_FEW:
        yield Finding("few", "refused", f"{run.completed} answers; {_TOO_FEW} are the least for a median")
    elif run.completed < _FEW:
        yield Finding("few", "marked", f"{run.completed} answers: the 99th percentile of fewer than {_FEW} is their maximum")


def _client(run: Run) -> Iterator[Finding]:
    client = run.client
    if client.cpu_share > _BUSY:
        yield Finding("client", "refused", f"the client used {client.cpu_share:.0%} of its core: it was the limit, or near it")
    for percent in (50, 99):
        ttft = run.ttft.percentile(percent) or 0.0
        late = max(client.lag.percentile(percent) or 0.0, client.late.percentile(percent) or 0.0)
        if late > max(_LAG_MS, _LAG_SHARE * ttft):
            reason = f"the client itself was late by {late:.0f} ms beside a TTFT of {ttft:.0f} ms (p{percent})"
            yield Finding("client", "refused", reason)


def _errors(run: Run) -> Iterator[Finding]:
    share, kinds = run.figures["error_rate"] or 0.0, ", ".join(f"{count} x {kind}" for kind, count in run.errors.most_common(3))
    if share > _MANY_ERRORS:
        yield Finding("errors", "refused", f"{share:.0%} of the requests failed ({kinds})")
    elif share > _ERRORS:
        yield Finding("errors", "marked", f"{share:.1%} of the requests failed ({kinds}); the figures are of the others")


def _setting(setting: Setting, limits: Limits | None) -> Iterator[Finding]:
    if is_simulated(setting.llm_config):
        yield Finding("simulated", "marked", "no chip computed these answers: an emulated slice or the simulated engine")
    if setting.llm_config is None:
        yield Finding("ceiling", "marked", "no Serve config was given (--config or --dashboard): no limits to compare with")
    elif limits is None:
        yield Finding("ceiling", "marked", "no limits are known for what the Serve config describes")
