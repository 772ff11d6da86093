"""A streamed chat with the openai client: the answer appears as the server writes it.

Environment: OPENAI_BASE_URL (http://127.0.0.1:8000/v1), OPENAI_API_KEY (any word for a server without keys), MODEL (optional).
"""

import os

from openai import OpenAI

client = OpenAI()
model = os.environ.get("MODEL") or client.models.list().data[0].id

stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Why do the hosts of a TPU slice start together?"}],
    max_tokens=200,
    stream=True,
    stream_options={"include_usage": True},  # the last chunk then has the token counts
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    if chunk.usage:
        print(f"\n({chunk.usage.prompt_tokens} tokens in, {chunk.usage.completion_tokens} out)")
