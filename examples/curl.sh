#!/usr/bin/env bash
# The API by curl alone. Environment: OPENAI_BASE_URL, OPENAI_API_KEY and MODEL, each with a default for a laptop's stack.
set -euo pipefail
url=${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}
key=(-H "authorization: Bearer ${OPENAI_API_KEY:-none}")
json=(-H "content-type: application/json")

curl -sS --fail-with-body "${key[@]}" "$url/models"
echo
# a base model continues text
curl -sS --fail-with-body "${key[@]}" "${json[@]}" "$url/completions" \
  -d '{"model": "'"${MODEL:-gemma-3-270m}"'", "prompt": "Water boils at", "max_tokens": 8, "temperature": 0}'
echo
# a chat, streamed: one line for each event, and [DONE]
curl -sS --fail-with-body -N "${key[@]}" "${json[@]}" "$url/chat/completions" \
  -d '{"model": "'"${MODEL:-gemma-3-270m}"'", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": true}'
