"""An answer that is certain to be JSON of a schema: the server lets the model write nothing else."""

import json
import os

from openai import OpenAI

SCHEMA = {
    "type": "object",
    "properties": {
        "capital": {"type": "string", "maxLength": 20},
        "continent": {"enum": ["Africa", "America", "Asia", "Europe", "Oceania"]},
        "in_the_eu": {"type": "boolean"},
    },
    "required": ["capital", "continent", "in_the_eu"],
    "additionalProperties": False,
}

client = OpenAI()
answer = client.chat.completions.create(
    model=os.environ.get("MODEL") or client.models.list().data[0].id,
    messages=[{"role": "user", "content": "The capital of France, its continent, and whether it is in the EU, as JSON"}],
    response_format={"type": "json_schema", "json_schema": {"name": "country", "schema": SCHEMA, "strict": True}},
    max_tokens=100,
    temperature=0,
)
print(json.dumps(json.loads(answer.choices[0].message.content or ""), indent=2))
