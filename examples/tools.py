"""A tool call: the model asks for a function, this program runs it, and the model answers with its result.

Needs a model that was trained with tools (Gemma 4). With TOOL_CHOICE=required any model calls one, as its answer is then bound
to the tools' JSON schemas; whether it can take the result depends on its chat template.
"""

import json
import os
from typing import Any

from openai import APIStatusError, OpenAI

CHIPS = {"v5e-4": 4, "v6e-16": 16, "v6e-256": 256}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "count_chips",
        "description": "Number of chips in a TPU slice",
        "parameters": {
            "type": "object",
            "properties": {"slice": {"type": "string", "enum": list(CHIPS)}},
            "required": ["slice"],
            "additionalProperties": False,
        },
    },
}

client = OpenAI()
model = os.environ.get("MODEL") or client.models.list().data[0].id
messages: list[Any] = [{"role": "user", "content": "How many chips has a v6e-16?"}]


def ask(tool_choice: Any) -> Any:
    try:
        return client.chat.completions.create(
            model=model, messages=messages, tools=[TOOL], tool_choice=tool_choice, max_tokens=200, temperature=0
        )
    except APIStatusError as error:
        raise SystemExit(f"the server refused it: {error.message}") from None


message = ask(os.environ.get("TOOL_CHOICE", "auto")).choices[0].message
if not message.tool_calls:
    raise SystemExit(f"no tool was called: {message.content}")
messages.append(message)
for call in message.tool_calls:
    arguments = json.loads(call.function.arguments)
    result = CHIPS[arguments["slice"]]
    print(f"{call.function.name}({arguments}) = {result}")
    messages.append({"role": "tool", "tool_call_id": call.id, "content": str(result)})
print(ask("none").choices[0].message.content)
