"""What a guarded server shows of its inside (nothing), and what it writes down."""

import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from apps.guard import answers
from apps.guard.audit import keyless_path
from tests.guard.served import MODEL, Keys, Served, ask, post, served, wait_for

SECRET_TEXT = "the-prompt-of-nobody-else"


def test_origins_are_closed_unless_listed(keys: Keys, tmp_path: Path) -> None:
    page = {"origin": "https://evil.example"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    with served(keys, tmp_path, app=cors_everywhere()) as server:
        for answer in (
            httpx.get(f"{server.url}/v1/models", headers={**page, **server.headers(keys.texts["alice"])}),
            httpx.options(f"{server.url}/v1/chat/completions", headers={**page, **asked}),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]
    with served(keys, tmp_path, allowed_origins=["https://good.example"]) as server:
        good = httpx.options(f"{server.url}/v1/chat/completions", headers={"origin": "https://good.example", **asked})
        assert (good.status_code, good.headers["access-control-allow-origin"]) == (200, "https://good.example")
        evil = httpx.options(f"{server.url}/v1/chat/completions", headers={**page, **asked})
        assert "access-control-allow-origin" not in evil.headers


def cors_everywhere() -> Starlette:
    from starlette.middleware.cors import CORSMiddleware

    app = Starlette(routes=[Route("/v1/models", lambda _: JSONResponse({}))])
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_credentials=True)  # as vLLM and Ray do
    return app


TRACE = (
    'Traceback (most recent call last):\n  File "/opt/venv/lib/python3.11/site-packages/vllm/x.py", line 3\nKeyError: secret'
)


async def joins(_: Request) -> Response:
    async def chunks() -> AsyncIterator[str]:
        error = {"error": {"message": TRACE, "type": "x", "code": 500}}
        yield 'data: {"id": "1", "choices": [{"text": "a"}]}\n\n'
        yield 'data: {"id": "1", "choices": [{"text": "b"}]}\n\ndata: ' + json.dumps(error) + "\n\ndata: [DONE]\n\n"

    return StreamingResponse(chunks(), media_type="text/event-stream")


def failing_app() -> Starlette:
    async def raises(_: Request) -> Response:
        raise RuntimeError("/opt/secret/path.py")

    async def says(request: Request) -> Response:
        status = int(request.query_params["status"])
        kind = request.query_params["kind"]
        if kind == "plain":
            return Response(TRACE, status)
        if kind == "detail":
            return JSONResponse({"detail": "Method Not Allowed"}, status)
        if kind == "fine":
            return JSONResponse(
                {"error": {"message": "temperature must be below 2", "type": "x", "param": None, "code": 400}}, status
            )
        return JSONResponse({"error": {"message": TRACE, "type": "x", "param": None, "code": status}}, status)

    async def breaks(_: Request) -> Response:
        async def chunks() -> AsyncIterator[str]:
            yield 'data: {"choices": [{"text": "a"}]}\n\n'
            yield "data: " + json.dumps({"error": {"message": TRACE, "type": "x", "code": 500}}) + "\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(chunks(), media_type="text/event-stream")

    async def dies(_: Request) -> Response:
        async def chunks() -> AsyncIterator[str]:
            yield 'data: {"choices": [{"text": "a"}]}\n\n'
            raise RuntimeError("/opt/secret/path.py")

        return StreamingResponse(chunks(), media_type="text/event-stream")

    paths = {"/raises": raises, "/says": says, "/breaks": breaks, "/joins": joins, "/dies": dies}
    return Starlette(routes=[Route(f"/v1{path}", endpoint) for path, endpoint in paths.items()])


@pytest.fixture
def failing(keys: Keys, tmp_path: Path) -> Iterator[Served]:
    with served(keys, tmp_path, app=failing_app(), routes=["/v1/*"]) as server:
        yield server


@pytest.mark.parametrize(
    "path",
    [
        "/raises",
        "/says?status=500&kind=plain",
        "/says?status=503&kind=json",
        "/says?status=400&kind=json",
        "/says?status=400&kind=plain",
    ],
)
def test_the_servers_inside_stays_in_its_log(failing: Served, keys: Keys, path: str, log: io.StringIO) -> None:
    answer = httpx.get(f"{failing.url}/v1{path}", headers={**failing.headers(keys.texts["alice"]), "x-request-id": "my-id-7"})
    assert answer.status_code >= 400
    assert "my-id-7" in answer.json()["error"]["message"]
    for leak in ("Traceback", "/opt", "secret", "site-packages"):
        assert leak not in answer.text
    wait_for(lambda: "my-id-7" in log.getvalue() and "/opt" in log.getvalue(), 5, "the reason in the log")


def test_what_only_speaks_of_the_request_is_passed_on(failing: Served, keys: Keys) -> None:
    headers = failing.headers(keys.texts["alice"])
    fine = httpx.get(f"{failing.url}/v1/says?status=400&kind=fine", headers=headers)
    assert fine.json()["error"]["message"] == "temperature must be below 2"
    detail = httpx.get(f"{failing.url}/v1/says?status=405&kind=detail", headers=headers)
    assert detail.json()["error"]["message"] == "Method Not Allowed"


@pytest.mark.parametrize("path", ["/breaks", "/joins", "/dies"])
def test_a_stream_that_fails_ends_with_a_plain_error(failing: Served, keys: Keys, path: str) -> None:
    answer = httpx.get(f"{failing.url}/v1{path}", headers=failing.headers(keys.texts["alice"]))
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert json.loads(lines[0])["choices"]
    error = next(json.loads(line)["error"] for line in lines if "error" in line)
    assert answer.headers["x-request-id"] in error["message"]
    assert "/opt" not in answer.text


@pytest.mark.parametrize("given", ["x" * 65, "a b", "a\tb", "é", ""])
def test_a_strange_request_id_is_replaced(server: Served, given: str) -> None:
    answer = httpx.get(f"{server.url}/v1/models", headers=[(b"x-request-id", given.encode())])
    assert len(answer.headers["x-request-id"]) == 32


def test_the_key_and_ids_are_not_passed_on(keys: Keys, tmp_path: Path) -> None:
    async def show(request: Request) -> Response:
        return JSONResponse(dict(request.headers))

    with served(keys, tmp_path, app=Starlette(routes=[Route("/v1/models", show)])) as server:
        seen = httpx.get(f"{server.url}/v1/models", headers={**server.headers(keys.texts["alice"]), "x-request-id": "a"}).json()
    assert "authorization" not in seen
    assert seen["x-request-id"] == "a"


def test_headers_that_are_too_many(server: Served, keys: Keys) -> None:
    answer = httpx.get(f"{server.url}/v1/models", headers={**server.headers(keys.texts["alice"]), "x-large": "x" * 33_000})
    assert answer.status_code == 431
    assert answer.json()["error"]["code"] == "headers_too_large"


def test_the_audit_says_who_asked_what_and_never_the_text(server: Served, keys: Keys) -> None:
    client = server.client(keys.texts["alice"])
    asked = [{"role": "user", "content": SECRET_TEXT}]
    answer = ask(client, messages=asked)
    list(ask(client, messages=asked, stream=True, max_tokens=9))
    with pytest.raises(openai.AuthenticationError):
        ask(server.client("rts_wrong"), messages=asked)
    httpx.get(f"{server.url}/no/such/{SECRET_TEXT}")
    files = (server.audit, keyless_path(server.audit))
    wait_for(lambda: [len(file.read_text().splitlines()) for file in files if file.exists()] == [2, 2], 5, "four lines")
    text = "".join(file.read_text() for file in files)
    whole, stream, wrong, closed = [json.loads(line) for line in text.splitlines()]
    assert (whole["key"], whole["route"], whole["status"]) == ("alice", "/v1/chat/completions", 200)
    assert (whole["prompt_tokens"], whole["output_tokens"]) == (answer.usage.prompt_tokens, 6)
    assert (whole["model"], whole["ttft_s"]) == (MODEL, None)
    assert stream["output_tokens"] == 9
    assert 0 < stream["ttft_s"] < stream["duration_s"]
    assert (wrong["key"], wrong["status"], closed["route"], closed["status"]) == (None, 401, None, 404)
    for secret in (SECRET_TEXT, keys.texts["alice"], "rts_wrong", answer.choices[0].message.content):
        assert secret not in text
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_who_leaves_is_counted_and_frees_the_engine(server: Served, keys: Keys) -> None:
    stream = ask(server.client(keys.texts["alice"]), stream=True, max_tokens=4000)
    for _ in zip(range(3), stream, strict=False):
        pass
    stream.close()
    wait_for(lambda: server.simulation and not server.simulation.scheduler.running, 5, "the engine to be free")
    wait_for(lambda: server.audit.exists() and server.audit.read_text(), 5, "the audit")
    (line,) = [json.loads(line) for line in server.audit.read_text().splitlines()]
    assert line["status"] == 499
    assert 1 <= line["output_tokens"] < 4000


def test_without_keys_an_open_server_answers_anybody_within_bounds(tmp_path: Path) -> None:
    with served(None, tmp_path) as server:
        assert ask(server.client())
        assert httpx.get(f"{server.url}/metrics").status_code == 404
        assert post(server, None, {"model": MODEL, "prompt": "x", "n": 99}).status_code == 400


def test_what_a_field_lacks_is_told_as_pydantic_says_it() -> None:
    message = b"1 validation error\\nmessages\\n  Field required\\n    For further information visit https://errors.pydantic.dev/2.12/v/missing"
    assert not answers.leaks_internals(message)
    assert answers.leaks_internals(b"pydantic.main: " + message)
