"""The chat page of the real stack in a real browser: answers of the real model, also behind a company's proxy."""

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.chat.browser import Page, needs_browser, serving
from tests.e2e.conftest import Stack

pytestmark = needs_browser


def reverse_proxy(target: str, prefix: str) -> Starlette:
    """A proxy as companies have it: it streams `target` under another prefix, and names that in a header."""
    client = httpx.AsyncClient(timeout=120)

    async def forward(request: Request) -> Response:
        url = httpx.URL(target).copy_with(raw_path=f"/{request.path_params['path']}?{request.url.query}".encode())
        skipped = ("host", "accept-encoding", "content-length")
        headers = {k: v for k, v in request.headers.items() if k not in skipped}
        headers |= {"x-forwarded-prefix": prefix, "x-forwarded-host": request.headers["host"], "x-forwarded-proto": "http"}
        sent = client.build_request(request.method, url, headers=headers, content=await request.body())
        answer = await client.send(sent, stream=True)
        kept = {k: v for k, v in answer.headers.items() if k not in ("content-length", "transfer-encoding", "content-encoding")}
        return StreamingResponse(answer.aiter_bytes(), answer.status_code, kept)

    return Starlette(routes=[Route(prefix + "/{path:path}", forward, methods=["GET", "POST"])])


def test_real_answer_streams_into_the_page(stack: Stack, page: Page) -> None:
    page.open(f"{stack.url}/chat/")
    assert page.find("#model input").get_attribute("value") == "gemma-3-270m"
    for question, answer in (
        ("What is the capital of France?", "Paris"),
        ("At what temperature does water boil?", "100 degrees"),
    ):
        page.ask(question)
        page.wait(lambda: answer in page.chat() and "tok/s" in page.chat().rpartition(answer)[2], 180, question)  # noqa: B023
    page.open(f"{stack.url}/chat/")
    page.wait(lambda: "Paris" in page.chat() and "100 degrees" in page.chat(), 30, "the conversation after a reload")
    page.screenshot(f"chat-{stack.path}.png")


def test_page_works_behind_a_reverse_proxy_with_another_prefix(stack: Stack, page: Page) -> None:
    with serving(reverse_proxy(stack.url, "/demo/gemma")) as proxy:
        page.open(f"{proxy}/demo/gemma/chat/")
        page.ask("What is the capital of Spain?")
        page.wait(lambda: "Madrid" in page.chat(), 60, "the answer through the proxy")
        page.screenshot(f"chat-behind-proxy-{stack.path}.png")
