"""Deploy and delete the simulated app again and again on a running emulated stack, two at a time, each on a slice of its own.

`python -m tests.e2e.rounds N` prints one JSON line: the seconds of each of the N pairs. Needs the stack's own environment and
Ray's address in RAY_ADDRESS.
"""

import json
import sys
import time

import ray
from ray import serve

from apps.llm import build_app
from apps.llm.args import LLMArgs
from emulation.hosts.config import emulated

NAMES = ("round-1", "round-2")


def main(pairs: int) -> None:
    ray.init(log_to_driver=False, namespace="serve", logging_level="ERROR")
    args = LLMArgs(**emulated()["applications"][0]["args"])
    del args.llm_configs[0]["callback_config"], args.llm_configs[0]["model_loading_config"]["model_source"]  # no weights here
    seconds = []
    for _ in range(pairs):
        start = time.monotonic()
        serve.run_many([serve.RunTarget(build_app(args), name=name, route_prefix=f"/{name}") for name in NAMES])
        for name in NAMES:
            serve.delete(name, _blocking=name == NAMES[-1])
        seconds.append(round(time.monotonic() - start, 2))
        print(f"pair {len(seconds)}: {seconds[-1]} s", file=sys.stderr, flush=True)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(int(sys.argv[1]))
