"""What was compiled, for the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from apps.slice.topology import GIB
from benchmarks.compile.results import Compiled

_MIB = 2**20
_HEAD = "| program | tokens | variants | arguments GiB | temporaries MiB | collectives | MiB moved | kernels | seconds | fits |"


def text(compiled: Compiled) -> str:
    """A Markdown table with a row for each program (its variants together), and what it says of the config."""
    groups: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for program in compiled.programs:
        groups.setdefault((program["name"], program["tokens"]), []).append(program)
    rows = [_row(name, tokens, variants) for (name, tokens), variants in groups.items()]
    return "\n".join([_HEAD, "|---" * _HEAD.count(" | ") + "|---|", *rows, "", *_sentences(compiled)])


def _row(name: str, tokens: int | None, variants: list[dict[str, Any]]) -> str:
    compiled = [variant for variant in variants if "temp_bytes" in variant]
    if not compiled:
        return f"| {name} | {tokens or ''} | {len(variants)} |  |  |  |  |  |  | {_verdict(variants)} |"
    largest = max(compiled, key=lambda variant: variant["argument_bytes"] + variant["temp_bytes"])
    counts = {kind: count for kind, moved in largest["collectives"].items() if (count := moved["count"])}
    moved = sum(kind["bytes"] for kind in largest["collectives"].values())
    cells = [
        *(name, tokens or "", len(variants), f"{largest['argument_bytes'] / GIB:.3f}", f"{largest['temp_bytes'] / _MIB:,.1f}"),
        *(", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none", f"{moved / _MIB:,.1f}", largest["kernels"]),
        *(f"{sum(variant['lower_s'] + variant['compile_s'] for variant in compiled):.0f}", _verdict(variants)),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _verdict(variants: Iterable[Mapping[str, Any]]) -> str:
    verdicts = {variant["fits"] for variant in variants}
    return "no" if False in verdicts else "not lowered ahead of time" if None in verdicts else "yes"


def _sentences(compiled: Compiled) -> list[str]:
    engine, request = compiled.engine, compiled.request
    on = f"{request.on.generation.name} {request.on.topology}"
    versions = ", ".join(f"{name} {number}" for name, number in engine["versions"].items())
    cut = f", cut to {request.layers} layers" if request.layers else ""
    sentences = [
        f"{request.model_id}{cut} on {on}: {engine['parameters'] / 1e9:.3f} B parameters, "
        f"{engine['weights_bytes_per_chip'] / GIB:.3f} GiB of weights a chip; "
        f"{engine['kv_bytes_per_token_per_chip']:,.0f} bytes of KV cache a token and chip, "
        f"room for {engine['kv_tokens']:,} tokens.",
        f"{len(compiled.programs)} of the {len(compiled.plan)} programs of a start were compiled, with {versions}. All of "
        f"these names, one after another, would take about {compiled.all_programs_s / 60:.0f} minutes on this machine.",
    ]
    sentences += [
        f"{p['name']} {p['tokens'] or ''}: {p['message']}{_advice(compiled, p)}" for p in compiled.programs if p.get("message")
    ]
    if request.assumed:
        sentences.append(
            "The config.json is a record of this project; its vision part is assumed (--model DIR gives the real one)."
        )
    return sentences


def _advice(compiled: Compiled, program: Mapping[str, Any]) -> str:
    """The largest gpu_memory_utilization with which a program that is too large would fit."""
    needed = program.get("needed_bytes")
    if not needed:
        return ""
    hbm, now = compiled.engine["hbm_bytes"], compiled.request.engine_kwargs.get("gpu_memory_utilization", 0.92)
    fitting = int(100 * (now - (needed - hbm) / hbm)) / 100
    return f" Lower gpu_memory_utilization from {now} to {fitting}, which leaves room for it."
