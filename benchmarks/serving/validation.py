"""Result validation: findings against a run. An invalid run's figures are not shown; a flagged one's come with the reason."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.serving.answers import Findings, Severity, counts, events, text
from benchmarks.serving.figures import Requests, summarized, ttft_ms
from benchmarks.serving.files import Stored
from benchmarks.serving.limits import SliceLimits, configured_replicas, draft_tokens, is_simulated, limits_of
from benchmarks.serving.records import Record, shared_beginnings
from benchmarks.serving.result import Best, Load, Run, Setting
from benchmarks.serving.sweep import KEPT_UP

_CACHE_SLACK = 0.02  # of the prompts' tokens: templates begin alike, and blocks end where they end
_TOO_FEW, _FEW = 20, 100  # responses; the 99th percentile of fewer than 100 is their maximum
_BUSY = 0.85  # of the time computing or waiting for a core; event loops are late from there on
_WAITED = 0.25  # of the time; what came then is timed late
_LAG_MS, _LAG_SHARE = 5.0, 0.1  # the client's lateness that matters: in itself, and of the TTFT at the same percentile
_PAUSE_MS = 100.0
_ERRORS, _MANY_ERRORS = 0.01, 0.05  # of the requests
_AFTER_LAST_S = 0.5  # from the last token to the stream's end


@dataclass(frozen=True)
class Finding:
    """One reason against a run."""

    rule: str
    severity: Severity
    reason: str

    def __str__(self) -> str:
        return f"{self.severity} ({self.rule}): {self.reason}"


def validate(setting: Setting, run: Run, records: Sequence[Record] | None, why_not: str = "") -> list[Finding]:
    """All findings, first those that make the run invalid. Without its records a run can only be checked in part."""
    limits = limits_of(setting.llm_config, run.replicas, run.tokens_per_step)
    rules = [_client(run, records or ()), _size(run), _errors(run), _setting(setting, run, limits)]
    if records is None:
        rules.append(iter([("unverified", "flagged", f"unverified: {why_not}: its figures cannot be computed anew")]))
    else:
        requests = Requests(records, run.load, run.load_s)
        rules += [_figures(setting, run, records), _ceilings(run, requests, limits), _cache(run, requests), _prompts(records)]
        rules += [counts(run, requests), text(requests), events(run, requests), _steady(run, requests)]
    findings = [Finding(*finding) for rule in rules for finding in rule]
    return sorted(findings, key=lambda finding: finding.severity != "invalid")


@dataclass(frozen=True)
class ValidatedRun:
    """A run, its records or None where they are missing, and the findings against it."""

    name: str
    run: Run
    records: list[Record] | None
    findings: list[Finding]

    @property
    def is_valid(self) -> bool:
        return all(finding.severity != "invalid" for finding in self.findings)

    @cached_property
    def requests(self) -> Requests | None:
        return None if self.records is None else Requests(self.records, self.run.load, self.run.load_s)


def validated_runs(stored: Stored, source: str = "") -> list[ValidatedRun]:
    """The runs of a result; their names begin with its `source`."""
    records: Sequence[list[Record] | None] = stored.records or [None] * len(stored.result.runs)
    validated = []
    for run, kept in zip(stored.result.runs, records, strict=True):
        name = f"{source}, {run.load.label}" + (f" ({run.repeat + 1})" if run.repeat else "")
        validated.append(ValidatedRun(name, run, kept, validate(stored.result.setting, run, kept, stored.why_not)))
    return validated


def is_valid_best(best: Best, runs: Sequence[ValidatedRun]) -> bool:
    """Whether what a sweep found rests on runs of which none is invalid."""
    return all(validated.is_valid for validated in runs if validated.run.load.rate == best.rate)


def _figures(setting: Setting, run: Run, records: Sequence[Record]) -> Findings:
    """Everything in the summary must follow from the records, and these from what can have happened."""
    anew = summarized(run, records, setting.slo)
    for name, value in anew.figures.items():
        if not _same(run.figures.get(name), value):
            yield "figures", "invalid", f"{name} is {run.figures.get(name)} in the file, and {value} follows from its records"
    if (run.sent, run.completed, run.output_tokens) != (anew.sent, anew.completed, anew.output_tokens):
        yield "figures", "invalid", "its counts are not those of its records"
    if any(gap < 0 for record in records for gap in record.events):
        yield "figures", "invalid", "an event came before the one that precedes it"
    if run.load.clients and anew.max_in_flight > run.load.clients:
        yield "figures", "invalid", f"{anew.max_in_flight} requests at once of {run.load.clients} clients"
    ends = [record.ended - record.intended - sum(record.events) / 1e6 for record in records if record.is_ok]
    if ends and not -0.001 <= float(np.median(ends)) <= _AFTER_LAST_S:
        yield "figures", "invalid", f"streams ended {float(np.median(ends)):.2f} s after their last token (median)"


def _same(first: float | None, second: float | None) -> bool:
    return first == second or (first is not None and second is not None and math.isclose(first, second, rel_tol=1e-6))


def _ceilings(run: Run, requests: Requests, limits: SliceLimits | None) -> Findings:
    if limits is None or not requests.ok:
        return
    prompt, rates = int(requests.prompt_tokens.min()), run.figures
    is_shared = run.cached_tokens or any(record.declared_shared_tokens != 0 for record in requests.ok)
    batch = limits.batch(math.ceil(requests.in_flight), prompt)
    single_stream = limits.single_stream(1 if is_shared else prompt)
    ttfts = [ttft for record in requests.ok if (ttft := ttft_ms(record)) is not None]
    reasons = (
        *batch.refusals(output_tok_per_s=rates["output_tok_per_s"], prompt_tok_per_s=rates["computed_prompt_tok_per_s"]),
        *single_stream.refusals(tpot_s=_seconds(rates["tpot_p50_ms"]), ttft_s=_seconds(min(ttfts, default=None))),
    )
    yield from (("ceiling", "invalid", reason) for reason in reasons)


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


def _cache(run: Run, requests: Requests) -> Findings:
    hits, prompt = run.figures["cache_hit_rate"], float(requests.prompt_tokens.sum())
    if hits is None or not prompt:
        yield "cache", "flagged", "the server does not report its prefix cache's hits: there may be more than the prompts allow"
        return
    measured = {id(record): share for record, share in shared_beginnings(requests.records)}
    meant = sum(
        measured[id(record)] * (record.prompt_tokens or 0)
        if record.declared_shared_tokens is None
        else record.declared_shared_tokens
        for record in requests.ok
    )
    if hits > meant / prompt + _CACHE_SLACK:
        reason = f"{hits:.1%} of the prompts' tokens came from the prefix cache, and {meant / prompt:.1%} are shared"
        yield "cache", "invalid", reason


def _prompts(records: Sequence[Record]) -> Findings:
    """No prompt may repeat another, whole or in its beginning, but for what was declared."""
    known = [record for record in records if record.prompt]
    if len(known) < len(records):
        yield "repeated", "flagged", f"{len(records) - len(known)} prompts are not known: some may repeat"
    repeated = len(known) - len({record.prompt for record in known})
    if repeated:
        yield "repeated", "invalid", f"{repeated} of {len(records)} requests repeat an earlier prompt"
    excess, tokens = 0.0, 0
    for record, share in shared_beginnings(known):
        asked = record.asked_prompt_tokens or 0
        tokens += asked
        if record.declared_shared_tokens is not None:
            excess += max(0.0, share * asked - record.declared_shared_tokens - 16)  # a block of text can cross the seam
    if tokens and excess / tokens > _CACHE_SLACK:
        yield "repeated", "invalid", f"{excess / tokens:.0%} of the prompts' tokens repeat the beginning of an earlier prompt"


def _steady(run: Run, requests: Requests) -> Findings:
    lives = requests.finished - requests.started
    if run.load.clients or not len(lives):
        return
    if (through := float(np.quantile(lives, 0.9))) > run.load_s / 2:
        reason = f"requests took {through:.1f} s (p90) of a load of {run.load_s:.1f} s: too short for a steady state"
        yield "steady", "flagged", reason
    offered, achieved = run.figures["offered_per_s"] or 0.0, run.figures["requests_per_s"] or 0.0
    if run.load.arrivals == "constant" and achieved < KEPT_UP * offered:
        yield "steady", "flagged", f"{achieved:.2f} of {offered:.2f} requests/s were answered in the steady state: a queue grew"


def _size(run: Run) -> Findings:
    if run.completed < _TOO_FEW:
        yield "few", "invalid", f"{run.completed} responses; a median needs at least {_TOO_FEW}"
    elif run.completed < _FEW:
        yield "few", "flagged", f"{run.completed} responses: the 99th percentile of fewer than {_FEW} is their maximum"


def _client(run: Run, records: Sequence[Record]) -> Findings:
    client = run.client
    if client is None:
        yield "client", "flagged", "whether the client kept up is not known"
        return
    waited = client.wait_share or 0.0
    if client.cpu_share + waited > _BUSY or waited > _WAITED:
        reason = f"the client used {client.cpu_share:.0%} of a core and waited for one {waited:.0%} of the time"
        yield "client", "invalid", f"{reason}: it was the limit, or near it"
    sending = _late_sending(run.load, records)
    for percent, noticed in (("p50", client.late_p50_ms), ("p99", client.late_p99_ms)):
        ttft = run.figures[f"ttft_{percent}_ms"] or 0.0
        late = max(noticed, float(np.percentile(sending, float(percent[1:]))) if sending else 0.0)
        if late > max(_LAG_MS, _LAG_SHARE * ttft):
            reason = f"the client itself was late by {late:.0f} ms beside a TTFT of {ttft:.0f} ms ({percent})"
            yield "client", "invalid", reason
    if client.longest_pause_ms > max(_PAUSE_MS, _LAG_SHARE * (run.figures["ttft_p99_ms"] or 0.0)):
        yield "client", "flagged", f"the client itself once stood still for {client.longest_pause_ms:.0f} ms"


def _errors(run: Run) -> Findings:
    share, kinds = run.figures["error_rate"] or 0.0, ", ".join(f"{count} x {kind}" for kind, count in run.errors.most_common(3))
    if share > _MANY_ERRORS:
        yield "errors", "invalid", f"{share:.0%} of the requests failed ({kinds}): the others had the server for themselves"
    elif share > _ERRORS:
        yield "errors", "flagged", f"{share:.1%} of the requests failed ({kinds}); the figures are of the others"


def _setting(setting: Setting, run: Run, limits: SliceLimits | None) -> Findings:
    for what in setting.not_recorded:
        yield "unknown", "flagged", f"{setting.tool} does not record {what}"
    if is_simulated(setting.llm_config):
        yield "simulated", "flagged", "no chip computed these responses: an emulated slice or the simulated engine"
    if setting.llm_config is None:
        yield "ceiling", "flagged", "no Serve config was given (--config or --dashboard): no limits to compare with"
        return
    if limits is None:
        yield "ceiling", "flagged", "no limits are known for the slice or the model in the Serve config"
        return
    low, high = configured_replicas(setting.llm_config)
    if run.replicas is None and low != high:
        reason = f"{low} to {high} replicas may have run (--dashboard counts them): the limits are of {high}"
        yield "ceiling", "flagged", reason
    if run.tokens_per_step is None and draft_tokens(setting.llm_config):
        reason = "the server reports no acceptance of drafts: the limits are those of drafts that are always right"
        yield "ceiling", "flagged", reason


def _late_sending(load: Load, records: Sequence[Record]) -> list[float]:
    """How long (ms) after its time each open-loop request was begun."""
    first = [record for record in records if not record.turn and record.begun is not None]
    return [] if load.clients else [1000 * ((record.begun or 0.0) - record.intended) for record in first]
