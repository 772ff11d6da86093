"""The chat page in a real browser, against a server that keeps what it was asked and fails as it is told."""

import base64
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Keyboard
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from apps.chat.args import ChatArgs
from apps.chat.site import build_asgi_app
from tests.chat.browser import Page, chat_page, needs_browser, serving
from tests.fake_openai import FakeServer
from tests.guard.served import Keys, served

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
pytestmark = needs_browser


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


def test_retry_asks_the_same_again_and_can_be_stopped(page: Page) -> None:
    fake = FakeServer(tokens=3)
    with chat_page(fake) as url:
        page.open(url)
        page.ask("Hello")
        page.wait(lambda: "TTFT" in page.chat(), 30, "the answer")
        fake.tokens, fake.itl_s = 500, 0.05
        page.press("Retry")
        page.wait(lambda: "w3" in page.chat(), 30, "some words of the second answer")
        page.press("Stop")
        assert fake.disconnected.wait(10)
        page.wait(lambda: "stopped" in page.chat(), 10, "that it was stopped")
    assert fake.requests[1]["messages"] == fake.requests[0]["messages"] == [{"role": "user", "content": "Hello"}]


def test_a_question_is_edited(page: Page) -> None:
    fake = FakeServer(tokens=2)
    with chat_page(fake) as url:
        page.open(url)
        page.ask("Is List<int> fast?")
        page.wait(lambda: "TTFT" in page.chat(), 30, "the answer")
        page.press("Edit")
        page.find("#chat textarea").send_keys(Keyboard.END, " Why?")
        page.find("#chat button[aria-label=Submit]").click()
        page.wait(lambda: len(fake.requests) == 2 and "TTFT" in page.chat(), 30, "the second answer")
    assert fake.requests[1]["messages"] == [{"role": "user", "content": "Is List<int> fast? Why?"}]


def test_a_question_meanwhile_waits_in_the_box_which_keeps_the_focus(page: Page) -> None:
    fake = FakeServer(tokens=500, itl_s=0.05)
    with chat_page(fake) as url:
        page.open(url)
        page.ask("Hello")
        page.wait(lambda: "w3" in page.chat(), 30, "some words")
        page.ask("And then?")
        page.wait(lambda: "An answer is being written" in page.find("body").text, 10, "the reason")
        page.press("Stop")
        page.wait(lambda: page.find("#box .submit-button"), 10, "the page can ask again")
        page.wait(lambda: page.driver.switch_to.active_element == page.find("#box textarea"), 10, "the focus")
        assert page.find("#box textarea").get_attribute("value") == "And then?"
    assert len(fake.requests) == 1


def test_a_reload_keeps_the_conversation_and_ends_its_running_answer(page: Page) -> None:
    fake = FakeServer(tokens=500, itl_s=0.05)
    with chat_page(fake) as url:
        page.open(url)
        page.ask("Hello")
        page.wait(lambda: "w3" in page.chat(), 30, "some words")
        page.open(url)
        page.wait(lambda: "Hello" in page.chat() and "w3" in page.chat() and "stopped" in page.chat(), 10, "the conversation")
        assert fake.disconnected.wait(10)
        fake.tokens = 2
        page.ask("Again")
        page.wait(lambda: page.chat().count("TTFT") == 2, 30, "the second answer")
        assert [message["role"] for message in fake.requests[1]["messages"]] == ["user", "assistant", "user"]
        with page.new_tab():
            page.open(url)
            assert "Hello" not in page.chat()  # a tab has a conversation of its own


@pytest.mark.parametrize("ending", ["cut", "error", "silent"])
def test_an_answer_that_breaks_off_stays_and_says_so(page: Page, ending: str) -> None:
    with chat_page(FakeServer(ending=ending)) as url:
        page.open(url)
        page.ask("Hello")
        page.wait(
            lambda: "The answer is not whole" in page.chat() and "Retry asks again" in page.chat(), 30, "that it broke off"
        )
        assert "w3" in page.chat()
        assert "starting" not in page.chat()
        page.screenshot(f"chat-{ending}.png")
        assert page.barriers() == []


def test_image_upload_and_thinking_only_where_the_model_can(page: Page) -> None:
    for images, thinks in ((False, False), (True, True)):
        with chat_page(FakeServer(takes_images=images, thinks=thinks)) as url:
            page.open(url)

            def shown() -> tuple[bool, bool]:
                uploads = page.driver.find_elements(By.CSS_SELECTOR, "#box .upload-button")
                switches = page.driver.find_elements(By.CSS_SELECTOR, "#thinking input")
                return bool(uploads), any(e.is_displayed() for e in switches)

            page.wait(lambda: shown() == (images, thinks), 10, "the controls that fit the model")  # noqa: B023 - awaited here


def test_a_refusal_is_a_short_message_and_spoils_no_later_question(page: Page) -> None:
    fake = FakeServer(refusal=(400, "maximum context length is 2048 tokens"))
    with chat_page(fake) as url:
        page.open(url)
        page.ask("Too long")
        page.wait(lambda: "maximum context length is 2048 tokens" in page.chat(), 30, "the refusal")
        page.screenshot("chat-refusal.png")
        assert "Traceback" not in page.chat()
        fake.refusal = None
        page.ask("Short")
        page.wait(lambda: "TTFT" in page.chat(), 30, "the answer")
    assert fake.requests[1]["messages"] == [{"role": "user", "content": "Short"}]


def test_text_keeps_its_form_also_when_copied(page: Page) -> None:
    answer = "<I am an answer.> It is $a_1 + b_1$, \\(x^2\\) or\n\n\\[ y < z \\]\n\nfor $5 and $6: `<b>`.\n\n"
    with chat_page(FakeServer(opening=answer)) as url:
        page.open(url)
        grants = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": url}
        page.driver.execute_cdp_cmd("Browser.grantPermissions", grants)
        page.ask("Hello")
        page.wait(lambda: "TTFT" in page.chat(), 30, "the answer")
        page.wait(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "#chat .katex")) == 3, 10, "the formulas")
        shown = page.chat().replace("\u2060", "")
        assert all(words in shown for words in ("<I am an answer.>", "$5 and $6", "<b>"))
        page.press("Copy message")
        read = "navigator.clipboard.readText().then(arguments[0])"
        page.wait(lambda: "answer" in page.driver.execute_async_script(read), 10, "the copy")
        copied = page.driver.execute_async_script(read)
        assert copied == answer.replace("$a_1 + b_1$", "\\(a_1 + b_1\\)") + "w0 w1 w2 w3 "


def test_a_page_that_waits_for_the_server_opens_by_itself(page: Page) -> None:
    with chat_page(fake := FakeServer(refusal=(503, "starting"))) as url:
        page.driver.get(url)
        assert "busy" in page.find("main").text
        assert page.barriers() == []
        fake.refusal = None
        page.wait(lambda: page.find("#model input").get_attribute("value") == "fake", 20, "the chat")


def test_a_refusal_of_the_chat_itself_is_told(page: Page) -> None:
    with chat_page(FakeServer()) as url:
        page.open(url)
        page.driver.execute_script("document.querySelector('#system textarea').maxLength = 1e6")
        page.fill("#system textarea", "x" * 300_000)
        page.ask("Hello")
        page.wait(lambda: "larger than" in page.find("body").text, 10, "what is wrong")


def test_the_models_appear_once_the_server_has_them(page: Page) -> None:
    fake = FakeServer(models=0)
    with chat_page(fake) as url:
        page.driver.get(url)
        page.wait(lambda: "No model is served yet" in page.find("#chat").text, 30, "why there is none")
        fake.models = 1
        page.wait(lambda: page.find("#model input").get_attribute("value") == "fake", 10, "the model")
        page.wait(lambda: "Ask something" in page.find("#chat").text, 10, "the invitation")


SCREENS = {"desktop": (1280, 800, False), "dark": (1280, 800, True), "phone": (390, 844, False)}


@pytest.mark.parametrize("screen", SCREENS)
def test_every_screen_is_for_everybody(page: Page, screen: str) -> None:
    code = "@cached  # a comment that is long enough to be scrolled\ndef f(x: int = 3) -> None:\n    print('a', x < 2, None)"
    answer = f"**Yes**, $x^2$ is [here](x):\n\n```python\n{code}\n```\n\n"
    fake = FakeServer(opening=answer, takes_images=True, thinks=True)
    width, height, dark = SCREENS[screen]
    page.become(width, height, dark=dark)
    try:
        with chat_page(fake) as url:
            page.open(url)
            assert page.barriers() == []
            page.ask("Is it?")
            page.wait(lambda: "TTFT" in page.chat() and page.find("#box .submit-button"), 30, "an answer")
            page.ask("Is it really?")
            page.wait(lambda: page.chat().count("TTFT") == 2 and page.find("#box .submit-button"), 30, "another answer")
            page.wait(lambda: page.find("#chat .katex"), 10, "the formula")
            page.screenshot(f"chat-{screen}.png")
            assert page.barriers() == []
            box = page.find("#box").rect
            assert box["y"] + box["height"] <= height, "the message box is below the screen's end"
            scheme = "return getComputedStyle(document.documentElement).colorScheme"  # of the scrollbars
            assert ("dark" in page.driver.execute_script(scheme)) or not dark
    finally:
        page.become(1280, 800)


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
        page.wait(lambda: page.find("#box .upload-button"), 10, "the upload button")
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
        assert page.barriers() == []
        page.find("#key").send_keys(key, Keyboard.ENTER)
        page.wait(lambda: page.find("#model input").get_attribute("value"), 30, "the page")
        page.ask("Hello")
        page.wait(lambda: "TTFT" in page.chat(), 30, "the answer")
        page.screenshot("chat-logged-in.png")
        kept = "return JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"
        assert key not in page.driver.execute_script(kept)
        page.find("#logout").click()
        page.wait(lambda: page.find("#key"), 10, "the login page again")
        page.find("#key").send_keys(key, Keyboard.ENTER)
        page.wait(lambda: page.find("#model input").get_attribute("value"), 30, "the page")
        page.driver.execute_script("fetch('logout')")  # in another tab
        page.ask("Hello")
        page.wait(lambda: page.find("#key"), 10, "the login page, as the session has ended")
