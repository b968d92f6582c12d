"""The slides of a notebook in Chromium, without a network, as on a projector of 1280 by 720."""

import pytest

from lossbook import notebooks, slides

SMALLEST_TEXT = 0.8  # of the size that is meant for a projector
SMALLEST_FIGURE = 380  # pixels in height
MEASURE = """() => {
  const page = Reveal.getCurrentSlide().querySelector(".page");
  return {
    title: page.querySelector("h1, h2, h3")?.innerText,
    text: parseFloat(page.style.fontSize || "100") / 100,
    overflow: page.scrollHeight - page.clientHeight,
    figures: [...page.querySelectorAll("img")].map(image => image.clientHeight),
    wide: [...page.querySelectorAll("*")].filter(e => e.scrollWidth > 1280).length,
  };
}"""


@pytest.mark.browser
def test_slides_are_readable_and_need_no_network(browser, tmp_path):
    file = tmp_path / "talk.html"
    file.write_text(slides.export(notebooks.read(notebooks.find("09"))), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1280, "height": 720}, offline=True)
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_function("window.Reveal?.isReady()")
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    assert page.locator(".page mjx-container").count() > 10

    measured = []
    for _ in range(page.evaluate("Reveal.getTotalSlides()")):
        measured.append(page.evaluate(MEASURE))
        page.keyboard.press("Space")
    assert page.evaluate("Reveal.isLastSlide()")
    figures = [height for slide in measured for height in slide["figures"]]
    assert figures and min(figures) >= SMALLEST_FIGURE
    for slide in measured:
        assert slide["title"] and slide["text"] >= SMALLEST_TEXT, slide
        assert slide["overflow"] <= 0 and not slide["wide"], slide
    context.close()
