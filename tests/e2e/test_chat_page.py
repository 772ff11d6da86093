"""The chat page in a real browser: against the real model, and against a server that keeps what it was asked."""

import base64
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Keyboard
from selenium.webdriver.remote.webelement import WebElement
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from apps.chat.args import ChatArgs
from apps.chat.site import build_asgi_app
from tests.e2e.conftest import ARTIFACTS, Stack
from tests.fake_openai import FakeServer, running
from tests.guard.served import Keys, served

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER) and not os.environ.get("REQUIRE_BROWSER"), reason="needs chromium and chromedriver"
)


class Page:
    """What a visitor sees and does."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except (StaleElementReferenceException, Exception) as error:
                last: object = error
            else:
                last = self.find("body").text[-500:]
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; last: {last}"
            time.sleep(0.1)

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.wait(lambda: self.find("#model input").get_attribute("value"), 60, "the model list")

    def ask(self, question: str) -> None:
        box = self.find("#box textarea")
        box.send_keys(question)
        box.send_keys(Keyboard.ENTER)

    def set_number(self, field: str, value: str) -> None:
        number = self.find(f"{field} input[type=number]")
        number.send_keys(Keyboard.CONTROL, "a")
        number.send_keys(value, Keyboard.TAB)

    def chat(self) -> str:
        return self.find("#chat").text

    def log(self) -> list[str]:
        """Messages in the browser's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def screenshot(self, name: str) -> None:
        ARTIFACTS.mkdir(exist_ok=True)
        self.driver.save_screenshot(str(ARTIFACTS / name))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    quiet = [
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,800", *quiet]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield Page(driver)
    driver.quit()


@contextmanager
def serving(app: object) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def chat_page(fake: FakeServer) -> Iterator[str]:
    """The page alone, in front of a fake model server."""
    with running(fake), serving(build_asgi_app(ChatArgs(api_url=fake.url))) as url:  # type: ignore[arg-type]
        yield url


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
    page.ask("Water boils at")
    page.wait(lambda: "Water boils at" in page.chat() and len(page.chat()) > len("Water boils at") + 5, 60, "the first words")
    early = page.chat()
    page.find("#box button.stop-button").click()
    page.wait(lambda: page.find("#box button.submit-button"), 30, "the page can ask again")
    page.set_number("#max-tokens", "32")
    page.ask("The capital of France is")
    page.wait(lambda: "TTFT" in page.chat(), 180, "the timing of an answer")
    page.screenshot(f"chat-{stack.path}.png")
    assert len(page.chat()) > len(early)
    assert "tok/s" in page.chat()


def test_page_works_behind_a_reverse_proxy_with_another_prefix(stack: Stack, page: Page) -> None:
    with serving(reverse_proxy(stack.url, "/demo/gemma")) as proxy:
        page.open(f"{proxy}/demo/gemma/chat/")
        page.ask("Hi")
        page.wait(lambda: len(page.chat()) > 10, 60, "the first words through the proxy")
        page.find("#box button.stop-button").click()
        page.screenshot(f"chat-behind-proxy-{stack.path}.png")


def test_settings_of_the_page_reach_the_server(page: Page) -> None:
    fake = FakeServer(tokens=3)
    with chat_page(fake) as url:
        page.open(url)
        page.find("#system textarea").send_keys("Be brief.")
        for field, value in {"#temperature": "0.35", "#top-p": "0.6", "#max-tokens": "77"}.items():
            page.set_number(field, value)
        page.ask("Hello")
        page.wait(lambda: "TTFT" in page.chat(), 30, "the answer")
    request = fake.requests[0]
    assert (request["temperature"], request["top_p"], request["max_tokens"]) == (0.35, 0.6, 77)
    assert request["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def test_regenerate_asks_the_same_again_without_the_answer(page: Page) -> None:
    fake = FakeServer(tokens=3)
    with chat_page(fake) as url:
        page.open(url)
        page.ask("Hello")
        page.wait(lambda: "TTFT" in page.chat(), 30, "the answer")
        page.find("#chat button[aria-label='Retry'], #chat button[title='Retry']").click()
        page.wait(lambda: len(fake.requests) == 2, 30, "the second request")
    assert fake.requests[1]["messages"] == fake.requests[0]["messages"] == [{"role": "user", "content": "Hello"}]


def test_stop_ends_the_servers_work(page: Page) -> None:
    fake = FakeServer(tokens=500, itl_s=0.05)
    with chat_page(fake) as url:
        page.open(url)
        page.ask("Hello")
        page.wait(lambda: "w3" in page.chat(), 30, "some words")
        page.find("#box button.stop-button").click()
        assert fake.disconnected.wait(10)


def test_image_upload_and_thinking_only_where_the_model_can(page: Page) -> None:
    for images, thinks in ((False, False), (True, True)):
        with chat_page(FakeServer(takes_images=images, thinks=thinks)) as url:
            page.open(url)

            def shown() -> tuple[bool, bool]:
                uploads = page.driver.find_elements(By.CSS_SELECTOR, "#box button.upload-button")
                switches = page.driver.find_elements(By.CSS_SELECTOR, "#thinking input")
                return bool(uploads), any(e.is_displayed() for e in switches)

            page.wait(lambda: shown() == (images, thinks), 10, "the controls that fit the model")  # noqa: B023 - awaited here


def test_a_servers_refusal_is_a_short_message_in_the_chat(page: Page) -> None:
    with chat_page(FakeServer(refusal=(400, "maximum context length is 2048 tokens"))) as url:
        page.open(url)
        page.ask("Hello")
        page.wait(lambda: "maximum context length is 2048 tokens" in page.chat(), 30, "the refusal")
        page.screenshot("chat-refusal.png")
    assert "Traceback" not in page.chat()


def test_an_answer_makes_the_browser_fetch_nothing_from_outside(page: Page) -> None:
    asked: list[str] = []

    async def elsewhere(request: Request) -> Response:
        asked.append(str(request.url))
        return Response(PNG, media_type="image/png")

    with serving(Starlette(routes=[Route("/{path:path}", elsewhere)])) as foreign:
        answer = f'![x]({foreign}/x.png) <img src="{foreign}/y.png"> <link rel="stylesheet" href="{foreign}/z.css">\n\n'
        with chat_page(FakeServer(opening=answer)) as url:
            page.open(url)
            page.log()
            page.ask("Hello")
            page.wait(lambda: "TTFT" in page.chat(), 30, "the answer")
            page.wait(lambda: any(f"{foreign}/x.png" in line for line in page.log()), 10, "the browser to refuse the image")
    assert asked == []


def test_the_pages_own_policy_breaks_nothing_of_it(page: Page) -> None:
    with chat_page(FakeServer(takes_images=True, thinks=True)) as url:
        page.log()
        page.open(url)
        page.ask("Hello")
        page.wait(lambda: "TTFT" in page.chat(), 30, "the answer")
    wrong = ("Content Security Policy", "status of 4", "status of 5")
    assert [line for line in page.log() if any(words in line for words in wrong)] == []


def test_an_image_that_was_uploaded_is_shown_and_asked_about(page: Page, tmp_path: Path) -> None:
    picture = tmp_path / "dot.png"
    picture.write_bytes(PNG)
    fake = FakeServer(takes_images=True)
    with chat_page(fake) as url:
        page.open(url)
        page.wait(lambda: page.find("#box button.upload-button"), 10, "the upload button")
        page.find("#box input[type=file]").send_keys(str(picture))
        page.wait(lambda: page.find("#box .thumbnail-item"), 10, "the thumbnail")
        page.ask("What is it?")
        page.wait(lambda: "TTFT" in page.chat(), 30, "the answer")
        shown = "return document.querySelector('#chat img[src*=\"file=\"]').naturalWidth"
        page.wait(lambda: page.driver.execute_script(shown) == 1, 10, "the image")
        page.screenshot("chat-image.png")
        assert page.driver.find_elements(By.CSS_SELECTOR, "[title=Share], [aria-label=Share]") == []
    assert fake.requests[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_a_visitor_logs_in_with_a_key_and_out_again(page: Page, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    key = keys.make("alice")
    with served(keys, tmp_path) as model, serving(build_asgi_app(ChatArgs(api_url=f"{model.url}/v1"))) as url:  # type: ignore[arg-type]
        page.driver.get(url)
        page.find("#key").send_keys("wrong", Keyboard.ENTER)
        page.wait(lambda: "does not accept this key" in page.find("main").text, 10, "the refusal")
        page.screenshot("chat-login.png")
        page.find("#key").send_keys(key, Keyboard.ENTER)
        page.wait(lambda: page.find("#model input").get_attribute("value"), 30, "the page")
        page.ask("Hello")
        page.wait(lambda: "TTFT" in page.chat(), 30, "the answer")
        page.screenshot("chat-logged-in.png")
        kept = "return JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"
        assert key not in page.driver.execute_script(kept)
        page.find("#logout").click()
        page.wait(lambda: page.find("#key"), 10, "the login page again")
