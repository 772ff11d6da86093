"""How far tokens are from the best by transformers' reckoning: `python -m tests.emulation.tpu.reference MODEL < answers`.

Shares nothing with the TPU engine but the weights. Runs in the TPU engine's Python, which has PyTorch. `answers` is a JSON list
of a prompt and its answer's tokens each; printed is the difference, for each token, of the largest logit and its own.
"""

import json
import sys

import torch
from transformers import AutoTokenizer, Gemma4ForConditionalGeneration


def main(directory: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = Gemma4ForConditionalGeneration.from_pretrained(directory, dtype=torch.bfloat16)
    gaps = []
    for prompt, answer in json.load(sys.stdin):
        ids = torch.tensor([tokenizer(prompt).input_ids + answer])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -len(answer) - 1 : -1].float()
        own = logits[range(len(answer)), answer]
        gaps.append((logits.max(dim=1).values - own).tolist())
    print("result: " + json.dumps(gaps), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
