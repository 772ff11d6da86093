"""Many requests from a file: `batch.py IN.jsonl OUT.jsonl [AT_ONCE]`, in the form of OpenAI's batch files.

Each line of IN is `{"custom_id": ..., "body": {...}}`; each of OUT has the same `custom_id` and a `response` or an `error`.
A line that fails stops no other. The client tries again by itself where the server is full (429) or starting (503).
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from openai import APIError, AsyncOpenAI

client = AsyncOpenAI(max_retries=5)


async def answer(line: dict[str, Any], model: str, places: asyncio.Semaphore) -> dict[str, Any]:
    async with places:
        try:
            response = await client.chat.completions.create(**{"model": model, **line["body"]})
        except APIError as error:
            return {"custom_id": line["custom_id"], "error": str(error)}
        return {"custom_id": line["custom_id"], "response": response.model_dump(exclude_none=True)}


async def main(source: Path, target: Path, at_once: int) -> None:
    model = os.environ.get("MODEL") or (await client.models.list()).data[0].id
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    places = asyncio.Semaphore(at_once)
    failed = 0
    with target.open("w") as out:
        for done in asyncio.as_completed([answer(line, model, places) for line in lines]):
            result = await done
            failed += "error" in result
            out.write(json.dumps(result) + "\n")
    print(f"{len(lines) - failed} answered, {failed} failed: {target}")


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 16))
