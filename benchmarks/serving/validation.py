"""Result validation: findings against a run. An invalid run's figures are not shown; a flagged one's come with the reason."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.serving.limits import SliceLimits, is_simulated, limits_of
from benchmarks.serving.result import Result, Run, Setting, figures, mean_in_flight

_CACHE_SLACK = 0.02  # of the prompts' tokens: templates begin alike, and blocks end where they end
_WRONG_COUNTS = 0.001  # of the requests
_TOO_FEW, _FEW = 20, 100  # responses; the 99th percentile of fewer than 100 is their maximum
_BUSY = 0.85  # of a core; event loops are late from there on
_LAG_MS, _LAG_SHARE = 5.0, 0.1  # the client's lateness that matters: in itself, and of the TTFT at the same percentile
_ERRORS, _MANY_ERRORS = 0.01, 0.5  # of the requests
_UNREADABLE = 0.5  # of the tokens by usage, text in sampled responses
Severity = Literal["invalid", "flagged"]


@dataclass(frozen=True)
class Finding:
    """One reason against a run."""

    rule: str
    severity: Severity
    reason: str

    def __str__(self) -> str:
        return f"{self.severity} ({self.rule}): {self.reason}"


def validate(setting: Setting, run: Run) -> list[Finding]:
    """All findings, first those that make the run invalid."""
    limits = limits_of(setting.llm_config)
    rules = (_figures(run), _ceilings(run, limits), _cache(run), _counts(run), _size(run), _client(run))
    findings = [Finding(*finding) for rule in (*rules, _errors(run), _setting(setting, limits)) for finding in rule]
    return sorted(findings, key=lambda finding: finding.severity != "invalid")


def is_invalid(findings: list[Finding]) -> bool:
    return any(finding.severity == "invalid" for finding in findings)


def best_rate(result: Result) -> float | None:
    """The rate that a sweep found, unless the run that it rests on is invalid."""
    runs = [run for run in result.runs if run.load.rate == result.best_rate and not is_invalid(validate(result.setting, run))]
    return result.best_rate if runs else None


_Findings = Iterator[tuple[str, Severity, str]]
"""Fields of findings."""


def _figures(run: Run) -> _Findings:
    """Figures must follow from the counts."""
    for name, value in figures(run).items():
        if run.figures.get(name) != value:
            yield "figures", "invalid", f"{name} is {run.figures.get(name)} in the file, and {value} follows from its counts"


def _ceilings(run: Run, limits: SliceLimits | None) -> _Findings:
    if limits is None:
        return
    prompt, rates = run.min_prompt_tokens or 0, run.figures
    is_shared = run.checks.declared_shared_tokens or run.checks.cached_tokens
    batch = limits.batch(math.ceil(mean_in_flight(run)), prompt)
    single_stream = limits.single_stream(1 if is_shared else prompt)
    reasons = (
        *batch.refusals(output_tok_per_s=rates["output_tok_per_s"], prompt_tok_per_s=rates["computed_prompt_tok_per_s"]),
        *single_stream.refusals(tpot_s=_seconds(rates["tpot_p50_ms"]), ttft_s=_seconds(run.ttft.minimum)),
    )
    yield from (("ceiling", "invalid", reason) for reason in reasons)


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


def _cache(run: Run) -> _Findings:
    hits = run.figures["cache_hit_rate"]
    if hits is None:
        yield "cache", "flagged", "the server does not report its prefix cache's hits: there may be more than the prompts allow"
        return
    declared = run.checks.declared_shared_tokens / run.prompt_tokens
    if hits > declared + _CACHE_SLACK:
        reason = f"{hits:.1%} of the prompts' tokens came from the prefix cache, and {declared:.1%} were declared as shared"
        yield "cache", "invalid", reason


def _counts(run: Run) -> _Findings:
    checks = run.checks
    if checks.repeated_prompts:
        yield "repeated", "invalid", f"{checks.repeated_prompts} of {run.sent} requests repeat an earlier prompt"
    if checks.without_usage:
        yield "tokens", "invalid", f"{checks.without_usage} responses came without the server's usage"
    if checks.wrong_counts:
        severity: Severity = "invalid" if checks.wrong_counts > _WRONG_COUNTS * run.completed else "flagged"
        reason = f"token counts disagree in {checks.wrong_counts} of {run.completed} responses: {checks.wrong_count_example}"
        yield "tokens", severity, reason
    if checks.sampled_text_tokens < _UNREADABLE * checks.sampled_tokens:
        reason = f"the text of sampled responses has {checks.sampled_text_tokens} tokens, usage reports {checks.sampled_tokens}"
        yield "tokens", "flagged", reason


def _size(run: Run) -> _Findings:
    if run.completed < _TOO_FEW:
        yield "few", "invalid", f"{run.completed} responses; a median needs at least {_TOO_FEW}"
    elif run.completed < _FEW:
        yield "few", "flagged", f"{run.completed} responses: the 99th percentile of fewer than {_FEW} is their maximum"


def _client(run: Run) -> _Findings:
    client = run.client
    if client.cpu_share > _BUSY:
        yield "client", "invalid", f"the client used {client.cpu_share:.0%} of its core: it was the limit, or near it"
    for percent in (50, 99):
        ttft = run.ttft.percentile(percent) or 0.0
        late = max(client.lag.percentile(percent) or 0.0, client.late.percentile(percent) or 0.0)
        if late > max(_LAG_MS, _LAG_SHARE * ttft):
            reason = f"the client itself was late by {late:.0f} ms beside a TTFT of {ttft:.0f} ms (p{percent})"
            yield "client", "invalid", reason


def _errors(run: Run) -> _Findings:
    share, kinds = run.figures["error_rate"] or 0.0, ", ".join(f"{count} x {kind}" for kind, count in run.errors.most_common(3))
    if share > _MANY_ERRORS:
        yield "errors", "invalid", f"{share:.0%} of the requests failed ({kinds})"
    elif share > _ERRORS:
        yield "errors", "flagged", f"{share:.1%} of the requests failed ({kinds}); the figures are of the others"


def _setting(setting: Setting, limits: SliceLimits | None) -> _Findings:
    if is_simulated(setting.llm_config):
        yield "simulated", "flagged", "no chip computed these responses: an emulated slice or the simulated engine"
    if setting.llm_config is None:
        yield "ceiling", "flagged", "no Serve config was given (--config or --dashboard): no limits to compare with"
    elif limits is None:
        yield "ceiling", "flagged", "no limits are known for the slice or the model in the Serve config"
