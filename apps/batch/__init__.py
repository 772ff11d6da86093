"""Many requests from files in OpenAI's Batch format, sent to a running server."""
