"""Arguments of the chat app in a Serve config. Light: the offline checks import them without Ray or Gradio."""

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field


class ChatArgs(BaseModel):
    """Arguments of the app in a Serve config."""

    model_config = ConfigDict(extra="forbid")

    api_url: AnyHttpUrl = Field(description="Base URL of the OpenAI API, ending in /v1, as seen from the chat's host.")
    title: str = "Gemma chat"  # heading of the page
    concurrency: int = Field(
        default=8, ge=1, le=256, description="Answers streamed at the same time, half of them to one key; more wait in a queue."
    )
    queue_length: int = Field(default=64, ge=1, le=4096, description="Waiting questions; more are refused.")
    first_token_timeout_s: float = Field(default=120, gt=0, description="Longest wait for the server to begin an answer.")
    open: bool = Field(default=False, description="Serve anybody beyond this machine, where the API asks for no key.")
    session_idle_s: float = Field(default=3600, gt=0, description="A session ends after this time without a request.")
    session_s: float = Field(default=12 * 3600, gt=0, description="A session ends after this time in any case.")
    temperature: float = Field(default=0.7, ge=0, le=2, description="Where the page's temperature slider begins.")
    max_tokens_limit: int = Field(default=2048, ge=1, description="Upper end of the max_tokens slider.")
