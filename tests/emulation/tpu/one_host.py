"""Greedy tokens of the TPU engine in one process with all chips: `python -m tests.emulation.tpu.one_host CONFIG < prompts`.

Runs in the TPU engine's Python. CONFIG is a Serve config with the model on this machine; prompts and tokens are JSON.
"""

import json
import sys
from pathlib import Path

import yaml
from vllm import LLM, SamplingParams

from tests.emulation.tpu import TOKENS

FRONT_END = ("enable_auto_tool_choice", "tool_call_parser", "reasoning_parser", "distributed_executor_backend")


def main(config: Path) -> None:
    content = yaml.safe_load(config.read_text())
    llm_config = next(app["args"]["llm_configs"][0] for app in content["applications"] if "llm_configs" in app["args"])
    engine = {name: value for name, value in llm_config["engine_kwargs"].items() if name not in FRONT_END}
    model = llm_config["callback_config"]["callback_kwargs"]["url"].removeprefix("file://")
    llm = LLM(model=model, **engine)
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    answers = llm.generate(json.load(sys.stdin), sampling, use_tqdm=False)
    print("result: " + json.dumps([list(answer.outputs[0].token_ids) for answer in answers]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
