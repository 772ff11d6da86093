"""The chat's page in a real browser, as a visitor sees and uses it."""

import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Keyboard
from selenium.webdriver.remote.webelement import WebElement

from apps.chat.args import ChatArgs
from apps.chat.site import build_asgi_app
from apps.common.settings import cache_root
from tests.fake_openai import FakeServer, running

_AXE = "4.14.1"
ARTIFACTS = Path(__file__).resolve().parents[2] / "test-artifacts"
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
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
            except Exception as error:
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

    def fill(self, selector: str, text: str) -> None:
        """Paste a text into a field."""
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.driver.execute_script(script, self.find(selector), text)

    def set_number(self, field: str, value: str) -> None:
        number = self.find(f"{field} input[type=number]")
        number.send_keys(Keyboard.CONTROL, "a")
        number.send_keys(value, Keyboard.TAB)

    def chat(self) -> str:
        return self.find("#chat").text

    def log(self) -> list[str]:
        """Messages in the browser's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def press(self, name: str) -> None:
        """The last button of that name, as assistive technology finds it."""
        self.driver.find_elements(By.CSS_SELECTOR, f"button[aria-label='{name}']")[-1].click()

    def become(self, width: int, height: int, *, dark: bool = False) -> None:
        """Another screen, from now on."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        preference = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preference]})

    @contextmanager
    def new_tab(self) -> Iterator[None]:
        """A tab as a visitor opens one: not by the page, whose storage it would share."""
        first = self.driver.current_window_handle
        opened = self.driver.execute_cdp_cmd("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.driver.switch_to.window(opened)
        yield
        self.driver.close()
        self.driver.switch_to.window(first)

    def barriers(self) -> list[str]:
        """What axe-core finds that keeps people out."""
        self.driver.execute_script(axe_core())
        violations = self.driver.execute_async_script(
            "axe.run().then(result => arguments[arguments.length - 1](result.violations))"
        )
        return [f"{rule['id']}: {node['html'][:200]}" for rule in violations for node in rule["nodes"]]

    def screenshot(self, name: str) -> None:
        ARTIFACTS.mkdir(exist_ok=True)
        self.driver.save_screenshot(str(ARTIFACTS / name))


@cache
def axe_core() -> str:
    """The script of axe-core, which npm fetches once."""
    kept = cache_root() / f"axe-core-{_AXE}.js"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as directory:
            fetch = ["npm", "pack", "--silent", f"axe-core@{_AXE}"]
            try:
                fetched = subprocess.run(fetch, cwd=directory, capture_output=True, text=True, timeout=60)
            except (FileNotFoundError, subprocess.TimeoutExpired) as error:
                pytest.skip(f"axe-core cannot be had: {error}")
            if fetched.returncode:
                pytest.skip(f"axe-core cannot be had: {fetched.stderr.strip()[-300:]}")
            with tarfile.open(next(Path(directory).glob("*.tgz"))) as package:
                script = package.extractfile("package/axe.min.js")
                assert script
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(script.read())
    return kept.read_text()


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
def chat_page(fake: FakeServer, **args: Any) -> Iterator[str]:
    """The page alone, in front of a fake model server."""
    with running(fake), serving(build_asgi_app(ChatArgs(api_url=fake.url, **args))) as url:  # type: ignore[arg-type]
        yield url
