"""The page: one file, whatever the names are."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mobilevision.apps.error_report.page import Picture, make_page
from mobilevision.heads.detection.coco_metrics import evaluate_boxes
from mobilevision.heads.detection.error_analysis import analyze_errors

HOSTILE = '<script>alert("1")</script>&amp;<img src=x onerror=alert(2)>'
VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects elements, attributes and text, and fails on an element that is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @classmethod
    def of(cls, page: str) -> "Reader":
        reader = cls()
        reader.feed(page)
        reader.close()
        assert reader.open == []
        return reader


def pictures() -> dict[str, Picture]:
    png = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(png, "PNG")
    names = ("precision_recall", "thresholds", "confusion", "worst_images")
    return {name: Picture(png.getvalue(), "png") for name in names}


def test_make_page__hostile_names__are_text(evaluation) -> None:
    coco, analysis, _ = evaluation
    page = make_page(coco, analysis, pictures(), [f"{HOSTILE}.jpg: no such file"])
    reader = Reader.of(page)
    assert "script" not in reader.tags
    assert reader.tags.count("img") == 4
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    # In the title, the heading, the classes, the confusions and the reason.
    assert reader.text.count(HOSTILE) == 5


def test_make_page__is_one_file_that_asks_for_no_other(evaluation) -> None:
    coco, analysis, _ = evaluation
    page = make_page(coco, analysis, pictures())
    reader = Reader.of(page)
    sources = [value or "" for name, value in reader.attributes if name in ("src", "href")]
    assert len(sources) == 4
    for source in sources:
        kind, _, data = source.partition(";base64,")
        assert kind == "data:image/png"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (3, 2)
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r"base64,[^\"]*", "", page))
    assert not {"script", "link", "iframe", "object", "form"} & set(reader.tags)


def test_make_page__says_the_numbers_worst_class_first(evaluation) -> None:
    coco, analysis, _ = evaluation
    text = Reader.of(make_page(coco, analysis, pictures())).text
    assert analysis.best is not None
    assert f"best threshold{analysis.best.threshold:.3f}" in text
    assert f"AP50{coco.numbers['AP50']:.3f}" in text
    low, high = sorted(analysis.per_class, key=lambda name: analysis.per_class[name].ap50 or 0)
    table = text[text.index("worst first") :]
    assert table.index(low) < table.index(high)
    assert f"{HOSTILE} → dog120.0%" in text


@pytest.mark.parametrize("classes", [1, 80])
def test_make_page__few_and_many_classes__whole(classes: int) -> None:
    truth = {
        "images": [{"id": 1}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": label, "bbox": [9 * label, 0, 8, 8]}
            for label in range(classes)
        ],
        "categories": [{"id": label, "name": f"class {label}"} for label in range(classes)],
    }
    boxes = np.arange(classes)
    results = [
        {"image_id": 1, "category_id": int(label), "bbox": [int(9 * label), 0, 8, 8], "score": 0.5}
        for label in boxes[::2]
    ]
    coco, analysis = (measure(truth, results, "x") for measure in (evaluate_boxes, analyze_errors))
    reader = Reader.of(make_page(coco, analysis, pictures()))
    assert len(re.findall(r"class \d+", reader.text)) == classes
    assert "best threshold0.500" in reader.text
