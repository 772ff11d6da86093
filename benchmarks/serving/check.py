"""`python -m benchmarks.serving check`: whether results, also of other tools, can be true."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

_DESCRIPTION = """Say of results what cannot be true and what is not known: of benchmarks.serving, of a job's log that has one,
of `vllm bench serve --save-result --save-detailed`, aiperf (profile_export.jsonl), guidellm (JSON) and inference-perf
(per_request_lifecycle_metrics.json). benchmarks.report takes the same files. Exits with 1 if a run is invalid."""


def check(argv: Sequence[str]) -> int:
    """Exit code: 1 if a run is invalid, 2 for a file that is not a result."""
    options = _parse(argv)
    from benchmarks.serving.files import read
    from benchmarks.serving.server import config_file, llm_config_of
    from benchmarks.serving.terminal import print_result
    from benchmarks.serving.validation import validated_runs

    invalid, checks = False, {}
    for path in options.results:
        stored = read(path)
        setting = stored.result.setting
        if options.config:
            setting.model = options.model or setting.model
            setting.llm_config = llm_config_of(config_file(options.config), setting.model)
        runs = validated_runs(stored)
        invalid = invalid or not all(each.is_valid for each in runs)
        entries = [
            {
                "load": each.run.load.label,
                "invalid": not each.is_valid,
                "findings": [vars(finding) for finding in each.findings],
            }
            for each in runs
        ]
        checks[str(path)] = {"tool": setting.tool, "runs": entries}
        if not options.json:
            print(f"{path}: {setting.tool}")
            print_result(stored.result, runs)
    if options.json:
        print(json.dumps(checks))
    return int(invalid)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving check", description=_DESCRIPTION)
    add = parser.add_argument
    add("results", nargs="+", type=Path, metavar="RESULT", help="files to check")
    add("--config", type=Path, metavar="FILE", help="the deployed Serve config, which gives the limits of the chips")
    add("--model", help="the model's name in it (default: the result's)")
    add("--json", action="store_true", help="print the findings as JSON")
    return parser.parse_args(argv)
