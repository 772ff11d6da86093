"""The visitor's own key: what it may, the chat may; what ends it, ends the session; and nobody sees it."""

import logging
from pathlib import Path

import pytest

from apps.chat.sessions import Sessions
from tests.chat.visitor import Visitor, chat
from tests.fake_openai import FakeServer, running
from tests.guard.served import MODEL, Keys, served, wait_for


def test_a_key_of_four_tokens_gets_four(url: str, keys: Keys) -> None:
    key = keys.make("small", limits={"max_tokens": 4})
    wait_for(lambda: Visitor(url).log_in(key).status_code == 200, 10, "the new key")
    with Visitor(url, key) as visitor:
        assert "this key may ask for at most 4" in visitor.ask("Hello", MODEL, max_tokens=24)
        assert "· 4 tokens" in visitor.ask("Hello", MODEL, max_tokens=4)


def test_a_key_for_another_model_gets_no_answer(url: str, keys: Keys) -> None:
    key = keys.make("narrow", models=["another-model"])
    wait_for(lambda: Visitor(url).log_in(key).status_code == 200, 10, "the new key")
    with Visitor(url, key) as visitor:
        assert MODEL not in visitor.do("load")
        assert "TTFT" not in visitor.ask("Hello", MODEL)


def test_the_session_of_a_revoked_key_ends_at_its_next_request(url: str, keys: Keys) -> None:
    leaver = keys.make("leaver")
    wait_for(lambda: Visitor(url).log_in(leaver).status_code == 200, 10, "the new key")
    with Visitor(url, leaver) as alice, Visitor(url, keys.texts["bob"]) as bob:
        assert "TTFT" in alice.ask("Hello", MODEL)
        keys.revoke("leaver")
        wait_for(lambda: Visitor(url).log_in(leaver).status_code == 401, 10, "the revocation")
        alice.do("submit", [{"text": "More", "files": []}])
        assert "logged out" in alice.answer(MODEL)
        assert alice.post("/gradio_api/queue/join", json={}).status_code == 401
        assert 'name="key"' in alice.get("/").text
        assert "TTFT" in bob.ask("Hello", MODEL)


@pytest.mark.parametrize("key", ["", "wrong", "x" * 600, "sk\nx: y", "Schlüssel"])
def test_what_is_no_key_opens_nothing(url: str, key: str) -> None:
    with Visitor(url) as stranger:
        refused = stranger.log_in(key)
        assert refused.status_code == 401
        assert "does not accept this key" in refused.text
        assert not stranger.cookies


def test_logging_out_ends_the_session_on_the_server(url: str, keys: Keys) -> None:
    with Visitor(url, keys.texts["alice"]) as alice:
        cookies = dict(alice.cookies)
        alice.get("/logout")
        alice.cookies.update(cookies)
        assert alice.get("/gradio_api/startup-events").status_code == 401


def test_the_cookie_is_for_this_chat_and_no_script(url: str, keys: Keys) -> None:
    with Visitor(url) as visitor:
        visitor.follow_redirects = False
        plain = visitor.log_in(keys.texts["alice"]).headers["set-cookie"]
        secure = visitor.post(
            "/login",
            data={"key": keys.texts["alice"]},
            headers={"x-forwarded-proto": "https", "x-forwarded-prefix": "/demo"},
        ).headers["set-cookie"]
    assert "HttpOnly; Path=/chat/; SameSite=strict" in plain
    assert "Path=/demo/chat/" in secure
    assert "Secure" in secure
    assert keys.texts["alice"] not in plain


def test_the_key_is_in_no_page_and_no_log(url: str, keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = keys.texts["alice"].rpartition("_")[2]
    with Visitor(url, keys.texts["alice"]) as alice:
        seen = alice.get("/").text + alice.ask("Hello", MODEL)
    assert secret not in seen + "\n".join(caplog.messages)


def test_where_the_api_asks_for_no_key_nobody_logs_in_on_loopback(tmp_path: Path) -> None:
    with served(None, tmp_path) as model, chat(f"{model.url}/v1") as url, Visitor(url) as visitor:
        assert "gradio_config" in visitor.get("/").text
        assert "TTFT" in visitor.ask("Hello", MODEL)


def test_beyond_this_machine_a_chat_without_keys_serves_nobody(tmp_path: Path) -> None:
    with served(None, tmp_path) as model, chat(f"{model.url}/v1", keyless=False) as url, Visitor(url) as visitor:
        closed = visitor.get("/")
        assert closed.status_code == 403
        assert "open: true" in closed.text
        assert visitor.log_in("anything").status_code == 403


def test_a_model_that_still_starts_is_said() -> None:
    with chat("http://127.0.0.1:9/v1") as url, Visitor(url) as visitor:
        waiting = visitor.get("/")
        assert waiting.status_code == 503
        assert "may still be starting" in waiting.text


def test_many_logins_at_once_are_refused_not_piled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.chat.login._WAITING", -4)
    with running(FakeServer()) as fake, chat(fake.url) as url, Visitor(url) as visitor:
        assert "Too many visitors" in visitor.log_in("x").text
        assert fake.requests == []


def test_sessions_end_idle_old_and_crowded_out() -> None:
    now = 0.0
    sessions = Sessions(idle_s=10, life_s=25, clock=lambda: now)
    first = sessions.create("a")
    now = 9
    assert sessions.get(first.id) is first
    now = 18
    assert sessions.get(first.id) is first
    now = 26
    assert sessions.get(first.id) is None
    idle = sessions.create("a")
    now = 37
    assert sessions.get(idle.id) is None
    other = sessions.create("b")
    mine = [sessions.create("a") for _ in range(33)]
    assert sessions.get(mine[0].id) is None  # of the same key
    assert sessions.get(mine[1].id)
    assert sessions.get(other.id)
    assert "secret" not in repr(sessions.create("secret"))
