"""A tool call: the model asks for a function, this program runs it, and the model answers with its result.

Needs a model with tools (Gemma 4). `TOOL_CHOICE=required` makes any model call one, as its answer is then bound to the
tool's JSON schema; a model without a format for tool results is only asked for the call.
"""

import json
import os
from typing import Any

from openai import BadRequestError, OpenAI

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
    return client.chat.completions.create(
        model=model, messages=messages, tools=[TOOL], tool_choice=tool_choice, max_tokens=200, temperature=0
    )


message = ask(os.environ.get("TOOL_CHOICE", "auto")).choices[0].message
if not message.tool_calls:
    raise SystemExit(f"no tool was called: {message.content}")
messages.append(message)
for call in message.tool_calls:
    arguments = json.loads(call.function.arguments)
    print(f"the model calls {call.function.name}({arguments})")
    messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(CHIPS[arguments["slice"]])})
try:
    print(ask("none").choices[0].message.content)
except BadRequestError as error:
    print(f"the model takes no results of tools: {error}")
