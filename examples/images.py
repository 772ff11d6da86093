"""A question about an image: `images.py FILE [QUESTION]`.

Needs a model that sees (Gemma 4); another one answers 400. The image goes along as a `data:` URL, as the server fetches none.
"""

import base64
import mimetypes
import os
import sys
from pathlib import Path

from openai import APIStatusError, OpenAI

file = Path(sys.argv[1])
question = sys.argv[2] if len(sys.argv) > 2 else "What is in this image?"
kind = mimetypes.guess_type(file)[0] or "image/png"
url = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"

client = OpenAI()
try:
    answer = client.chat.completions.create(
        model=os.environ.get("MODEL") or client.models.list().data[0].id,
        messages=[
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}],
            }
        ],
        max_tokens=200,
    )
except APIStatusError as error:
    raise SystemExit(f"the server refused it: {error.message}") from None
print(answer.choices[0].message.content)
