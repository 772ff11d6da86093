"""The model as a Ray Serve app: OpenAI-compatible API at `/`, the same app on a laptop CPU and on a TPU slice.

Ray Serve LLM does the work: `build` picks the HTTP path, `server` adds what version 2.60 leaves out of its vLLM engine.
Imports here stay light, because the offline checks take the arguments from this package.
"""

from typing import TYPE_CHECKING

from apps.llm.args import LLMArgs

if TYPE_CHECKING:
    from ray.serve import Application


def build_app(args: LLMArgs) -> "Application":
    """Build the app. Raises `UserError` or a pydantic error, which `serve status` shows as the app's message."""
    from apps.llm.build import build

    return build(args)
