"""Many prompts, one on each line of a file: `batch.py PROMPTS.txt ANSWERS.jsonl`. They go through `rts batch` (docs/batch.md).

Stopped at any point, the same command goes on. Answers come back by the custom_id that each prompt was given.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from openai import OpenAI

client = OpenAI()
model = os.environ.get("MODEL") or client.models.list().data[0].id
prompts, target = Path(sys.argv[1]).read_text().splitlines(), Path(sys.argv[2]).resolve()


def request(number: int, prompt: str) -> dict[str, object]:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 64}
    return {"custom_id": f"prompt-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


requests = target.with_suffix(".requests.jsonl")
requests.write_text("".join(json.dumps(request(number, prompt)) + "\n" for number, prompt in enumerate(prompts)))
url = str(client.base_url)
command = [sys.executable, "-m", "apps.batch", str(requests), "--to", str(target), "--url", url]
command += ["--allow-host", urlsplit(url).hostname or ""]
done = subprocess.run(command, cwd=Path(__file__).resolve().parents[1])
if done.returncode:
    sys.exit(done.returncode)
for line in map(json.loads, target.read_text().splitlines()):
    prompt = prompts[int(line["custom_id"].removeprefix("prompt-"))]
    print(f"{prompt} -> {line['response']['body']['choices'][0]['message']['content'].strip()}")
