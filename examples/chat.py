"""Chat in a terminal with the openai client: answers appear as the server writes them. With a question as argument, one answer.

An empty line or Ctrl-D ends it. Environment: OPENAI_BASE_URL (http://127.0.0.1:8000/v1), OPENAI_API_KEY (any word for a server
without keys), MODEL (optional).
"""

import os
import readline  # noqa: F401 - arrow keys and history while you type
import sys

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

client = OpenAI()
model = os.environ.get("MODEL") or client.models.list().data[0].id
messages: list[ChatCompletionMessageParam] = []
questions = [" ".join(sys.argv[1:])] if sys.argv[1:] else iter(lambda: input("> "), "")

try:
    for question in questions:
        messages.append({"role": "user", "content": question})
        stream = client.chat.completions.create(
            model=model,
            messages=messages,
            max_tokens=200,
            stream=True,
            stream_options={"include_usage": True},  # the last chunk then has the token counts
        )
        answer = ""
        for chunk in stream:
            text = chunk.choices[0].delta.content or "" if chunk.choices else ""
            answer += text
            print(text, end="", flush=True)
            if chunk.usage:
                print(f"\n({chunk.usage.prompt_tokens} tokens in, {chunk.usage.completion_tokens} out)")
        messages.append({"role": "assistant", "content": answer})
except (EOFError, KeyboardInterrupt):
    print()
