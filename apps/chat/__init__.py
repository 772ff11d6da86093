"""The chat as a Ray Serve app of its own: a Gradio page that talks to the model over the OpenAI API, as any client does.

A visitor asks under their own key, so that limits, models, fairness, audit and revocation hold by themselves. What is between
the net and Gradio is in `door`; imports here stay light, for the offline checks take the arguments from this package.
"""

from typing import TYPE_CHECKING

from apps.chat.args import ChatArgs

if TYPE_CHECKING:
    from ray.serve import Application


def build_app(args: ChatArgs) -> "Application":
    """Build the app; nothing is contacted before the first visitor comes."""
    from apps.chat.deployment import bind

    return bind(args)
