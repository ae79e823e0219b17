"""The paper's tables counted again: every figure that can be explained is met."""

import pytest
import torch

from mobilevision.apps.costs.networks import short_count, table_text
from mobilevision.apps.costs.paper import TABLES, FasterRcnnMobileNet, Row, table_rows
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.cost import count_cost
from mobilevision.heads.detection.faster_rcnn import FasterRCNN

ALL_ROWS = [row for number in TABLES for row in table_rows(number)]
FIELDS = (
    *("table", "framework", "model", "resolution", "width_mult"),
    *("mult_adds", "params", "paper_mult_adds", "paper_params"),
)
TABLE_1 = """
Conv / s2  3x3x3x32  224x224x3
Conv dw / s1  3x3x32 dw  112x112x32
Conv / s1  1x1x32x64  112x112x32
Conv dw / s2  3x3x64 dw  112x112x64
Conv / s1  1x1x64x128  56x56x64
Conv dw / s1  3x3x128 dw  56x56x128
Conv / s1  1x1x128x128  56x56x128
Conv dw / s2  3x3x128 dw  56x56x128
Conv / s1  1x1x128x256  28x28x128
Conv dw / s1  3x3x256 dw  28x28x256
Conv / s1  1x1x256x256  28x28x256
Conv dw / s2  3x3x256 dw  28x28x256
Conv / s1  1x1x256x512  14x14x256
Conv dw / s1  3x3x512 dw  14x14x512
Conv / s1  1x1x512x512  14x14x512
Conv dw / s2  3x3x512 dw  14x14x512
Conv / s1  1x1x512x1024  7x7x512
Conv dw / s1  3x3x1024 dw  7x7x1024
Conv / s1  1x1x1024x1024  7x7x1024
FC / s1  1024x1000  1x1x1024
""".strip().splitlines()
"""As the paper prints it, but for the stride of the last depthwise layer (2 there)."""


def unit(figure: int) -> int:
    """One in the last digit that the paper prints: 569 M gives 1 M, 4.2 M gives 0.1 M."""
    return 10 ** (len(str(figure)) - len(str(figure).rstrip("0")))


def is_met(count: int | None, figure: int | None) -> bool:
    """Rounded or cut off, the count is the paper's figure."""
    return count is None or figure is None or abs(count - figure) < unit(figure)


def label(row: Row) -> str:
    return f"{row.table} {row.framework} {row.model}"


def met(row: Row) -> bool:
    return is_met(row.mult_adds, row.paper_mult_adds) and is_met(row.params, row.paper_params)


@pytest.mark.parametrize("row", [row for row in ALL_ROWS if not row.note], ids=label)
def test_row_without_a_note__is_counted_and_meets_the_paper(row: Row) -> None:
    assert row.mult_adds is not None
    assert row.params is not None
    assert is_met(row.mult_adds, row.paper_mult_adds)
    assert is_met(row.params, row.paper_params)


def test_rows_that_miss_the_paper__are_these_and_have_notes() -> None:
    missed = {label(row) for row in ALL_ROWS if row.table != 2 and not met(row)}
    assert missed == {
        "4 classification Conv MobileNet",
        "8 classification GoogLeNet",
        "8 classification VGG-16",
        "9 classification 0.5 MobileNet-160",
        "9 classification SqueezeNet",
        "10 classification 1.0 MobileNet-224",
        "10 classification Inception V3",
        "11 geolocation PlaNet, Inception V3",
        "12 face attributes 0.25 MobileNet-224",
        "12 face attributes 0.25 MobileNet-128",
        "13 SSD 300 deeplab-VGG",
        "14 face embeddings 1.0 MobileNet-160",
        "14 face embeddings 1.0 MobileNet-128",
        "14 face embeddings 0.75 MobileNet-160",
        "14 face embeddings 0.75 MobileNet-128",
    }


def test_rows_without_a_count__are_the_unpublished_networks() -> None:
    uncounted = {row.model for row in ALL_ROWS if row.mult_adds is None}
    assert uncounted == {"Inception V2", "Baseline", "FaceNet"}
    assert all(row.note for row in ALL_ROWS if row.mult_adds is None)


def test_table_1__is_the_papers() -> None:
    *layers, total = table_rows(1)
    names = [row.model for row in layers]
    assert sorted(set(names), key=names.index) == TABLE_1
    assert len(names) == 28  # "MobileNet has 28 layers", Section 3.2
    assert names.count("Conv dw / s1  3x3x512 dw  14x14x512") == 5
    assert sum(row.mult_adds or 0 for row in layers) == total.mult_adds == 568_740_352


def test_table_2__shares_are_the_papers_but_for_one_misprint() -> None:
    rows = table_rows(2)
    total = sum(row.mult_adds or 0 for row in rows)
    weights = sum(row.params or 0 for row in rows)
    shares = [
        (round(100 * (row.mult_adds or 0) / total, 2), round(100 * (row.params or 0) / weights, 2))
        for row in rows
    ]
    assert shares == [(94.86, 74.59), (3.06, 1.06), (1.91, 0.02), (0.18, 24.33)]


@pytest.mark.parametrize(
    ("table", "model", "mult_adds", "params"),
    [
        (3, "convolution 3x3, 14x14x512", 14 * 14 * 512 * 9 * 512, 9 * 512 * 512),
        (3, "and rho = 0.714 (10x10)", 100 * 384 * (9 + 384), 384 * (9 + 384) + 4 * 384),
        (4, "Conv MobileNet", 4_866_269_184 + 1_024_000, 29_294_088),
        (14, "0.75 MobileNet-128", 106_100_736, 1_914_992),
    ],
)
def test_rows__figures_in_ones__stay(table: int, model: str, mult_adds: int, params: int) -> None:
    (row,) = (row for row in table_rows(table) if row.model == model)
    assert (row.mult_adds, row.params) == (mult_adds, params)


def test_faster_rcnn__counted_without_the_choice_of_proposals__is_the_whole_detector() -> None:
    with torch.device("meta"):
        shortened = count_cost(FasterRcnnMobileNet(), torch.empty(1, 3, 64, 96))
    whole = count_cost(FasterRCNN(MobileNetV1(out_strides=(16,)), 90), torch.zeros(1, 3, 64, 96))
    assert whole.params == shortened.params
    assert whole.by_kind()["conv 1x1"][0] > 0
    # On a small image fewer than 300 boxes may come: the second stage is not compared.
    first = [layer.mult_adds for layer in whole.layers if not layer.name.startswith("roi")]
    assert first == [
        layer.mult_adds for layer in shortened.layers if not layer.name.startswith("detector.roi")
    ]


@pytest.mark.parametrize("row", ALL_ROWS, ids=label)
def test_as_dict__has_the_fields_in_order(row: Row) -> None:
    fields = [*FIELDS, "note"] if row.note else [*FIELDS]
    plain = row.as_dict()
    assert list(plain) == fields
    counts = [plain[name] for name in FIELDS[5:]]
    assert all(count is None or type(count) is int for count in counts)


@pytest.mark.parametrize("number", TABLES)
def test_table_text__every_table__fits_100_columns_and_marks_its_notes(number: int) -> None:
    rows = table_rows(number)
    text = table_text(number, TABLES[number][0], rows)
    assert max(len(line) for line in text.splitlines()) <= 100
    for row in rows:
        assert row.model in text
    assert ("[1]" in text) == any(row.note for row in rows)


def test_table_text__row__by_hand() -> None:
    row = Row(6, "f", "small", 224, 0.25, 41_030_272, 470_072, 41_000_000, 500_000, "Why.")
    lines = table_text(6, "t", [row, row._replace(model="none", mult_adds=None)]).splitlines()
    assert lines[4:] == [
        "small   41.03 M      41 M    +0.1%   470.1 k     500 k    -6.0%  [1]",
        "none          -      41 M            470.1 k     500 k    -6.0%  [1]",
        "",
        "[1] Why.",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((None, "-"), (0, "0  "), (864, "864  "), (2048, "2.048 k"), (568_740_352, "568.7 M")),
        *((15_470_264_320, "15.47 G"), (138_507_572, "138.5 M"), (1_000_000, "1.000 M")),
    ],
)
def test_short_count__by_hand(count: int | None, text: str) -> None:
    assert short_count(count) == text
