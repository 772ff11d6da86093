"""The model server that Ray Serve LLM runs for us: its vLLM engine with what version 2.60 leaves out."""
