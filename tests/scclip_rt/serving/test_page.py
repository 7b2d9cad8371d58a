"""The page at `/` in a real browser: Chromium of the system, without a window."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from scclip_rt import Segmenter
from services import Running, picture, png

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")
IMAGE = picture(6, 150, 200)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # As root there is no sandbox to be had; the page under test is our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    """The page; no other address is asked, and nothing goes wrong in the console."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    addresses: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(str(running.client.base_url))
    expect(page.locator("#classes")).to_have_value("red, scarlet\ngreen\nblue\nbackground")
    yield page
    base = str(running.client.base_url).rstrip("/")
    assert [url for url in addresses if not url.startswith((base, "blob:"))] == []
    assert complaints == []
    context.close()


def choose(page: Page, tmp_path: Path) -> None:
    """Choose a file with the keyboard's way in: the file input."""
    file = tmp_path / "photo.png"
    file.write_bytes(png(IMAGE))
    page.locator("#file").set_input_files(file)
    expect(page.locator("#status")).to_contain_text("classes found")


def overlay_pixel(page: Page, x: int, y: int) -> list[int]:
    script = (
        "([x, y]) => [...document.getElementById('overlay').getContext('2d').getImageData(x, y, 1, 1).data]"
    )
    return page.evaluate(script, [x, y])


def test_a_picture_is_segmented_and_explained(page: Page, segmenter: Segmenter, tmp_path: Path) -> None:
    choose(page, tmp_path)
    expected = segmenter(IMAGE, confidence=True)
    shown = page.locator("#legend li").all_inner_texts()
    assert [text.split("\n")[0] for text in shown] == list(expected.shares())
    box = page.locator("#overlay").bounding_box()
    x, y = 150, 40
    page.mouse.move(box["x"] + (x + 0.5) * box["width"] / 200, box["y"] + (y + 0.5) * box["height"] / 150)
    name = expected.classes[expected.labels[y, x]]
    expect(page.locator("#readout")).to_have_text(f"{name}, {expected.confidence[y, x] * 100:.0f} % sure")


def test_classes_are_shown_and_hidden(page: Page, segmenter: Segmenter, tmp_path: Path) -> None:
    choose(page, tmp_path)
    result = segmenter(IMAGE)
    largest = result.classes.index(next(iter(result.shares())))
    y, x = (int(value[0]) for value in np.nonzero(result.labels == largest))
    assert overlay_pixel(page, x, y)[3] == 255
    page.locator("#legend input").first.uncheck()
    assert overlay_pixel(page, x, y)[3] == 0
    page.get_by_role("button", name="All").click()
    assert overlay_pixel(page, x, y)[3] == 255
    page.get_by_role("button", name="None").click()
    assert not page.locator("#legend input:checked").count()


def test_labels_and_json_can_be_kept(page: Page, segmenter: Segmenter, tmp_path: Path) -> None:
    choose(page, tmp_path)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download labels").click()
    assert download.value.suggested_filename == "photo.labels.png"
    labels = np.array(Image.open(io.BytesIO(Path(download.value.path()).read_bytes())))
    assert np.array_equal(labels, segmenter(IMAGE).labels)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    assert json.loads(Path(download.value.path()).read_text())["width"] == 200


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    page.keyboard.press("Tab")  # the file
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the sample
    expect(page.locator("#status")).to_contain_text("classes found")
    page.locator("#classes").focus()
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("one\ntwo")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "run"
    page.keyboard.press("Enter")
    expect(page.locator("#legend li").first).to_contain_text("o")
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#readout")).to_contain_text("sure")
    assert page.locator("#point").is_visible()


def test_pasted_and_dropped_pictures_are_taken(page: Page) -> None:
    send = """(kind) => {
        const canvas = new OffscreenCanvas(40, 30);
        canvas.getContext("2d").fillRect(0, 0, 9, 9);
        return canvas.convertToBlob().then((blob) => {
            const data = new DataTransfer();
            data.items.add(new File([blob], "a.png", { type: "image/png" }));
            const event = kind === "paste"
                ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
                : new DragEvent("drop", { dataTransfer: data, bubbles: true });
            document.body.dispatchEvent(event);
        });
    }"""
    for kind in ("paste", "drop"):
        page.evaluate("document.getElementById('overlay').width = 1")
        page.evaluate(send, kind)
        expect(page.locator("#status")).to_contain_text("classes found")
        expect(page.locator("#overlay")).to_have_js_property("width", 40)


def test_a_narrow_screen_has_one_column(page: Page, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    choose(page, tmp_path)
    assert page.evaluate("document.documentElement.scrollWidth <= 360")
    form, result = (page.locator(part).bounding_box() for part in ("#form", "#result"))
    assert result["y"] >= form["y"] + form["height"]


def test_errors_are_told(page: Page, running: Running, tmp_path: Path) -> None:
    file = tmp_path / "text.png"
    file.write_text("no picture")
    page.locator("#file").set_input_files(file)
    expect(page.locator("#status")).to_contain_text("no picture that the browser can show")
    assert running.client.get("/v2/health/live").status_code == 200
