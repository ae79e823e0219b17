"""The page about a detector's errors: one HTML file with everything in it, and no script."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from ...heads.detection.coco_metrics import NO_GROUND_TRUTH, CocoResult
from ...heads.detection.error_analysis import BACKGROUND, ERROR_KINDS, Decision, ErrorAnalysis
from ..confusion import most_confused

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5b6570; --line: #d9dee3;
  --page: #fbfbfa; --card: #ffffff; --bar: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaed; --soft: #9aa6b2; --line: #353c44;
  --page: #15181b; --card: #1d2125; --bar: #6aa5e8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0.4rem; }
p, small, figcaption { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.5rem, 1fr)); gap: 0.6rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 0.5rem;
  padding: 0.5rem 0.7rem; }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
.long { max-height: 34rem; overflow-y: auto; border: 1px solid var(--line); border-radius: 0.5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.3rem 0.55rem; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }
th { color: var(--soft); font-weight: 600; font-size: 0.85rem; vertical-align: bottom; }
.long th { position: sticky; top: 0; background: var(--page); }
th:first-child, td:first-child { text-align: left; min-width: 7rem; overflow-wrap: anywhere; }
.bar { display: block; height: 0.35rem; border-radius: 0.2rem; background: var(--bar); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 0.8rem; }
figure { margin: 0.6rem 0; }
img { max-width: 100%; height: auto; display: block; background: #fff; border-radius: 0.5rem;
  border: 1px solid var(--line); }
"""
_CAPTIONS = {
    "precision_recall": (
        "Precision over recall, each class and the mean",
        "The share of right detections against the share of the objects found, as the threshold "
        "falls. The area is AP50.",
    ),
    "thresholds": (
        "What the threshold does",
        "Precision, recall and their harmonic mean F1, of the detections of all classes from a "
        "score on.",
    ),
    "confusion": (
        "Confusion matrix at the best threshold",
        "Rows are annotated, columns detected. The background column counts missed objects, the "
        "background row detections on no object.",
    ),
    "worst_images": (
        "The images with the most errors",
        "Annotations are dashed, detections solid.",
    ),
}


class Picture(NamedTuple):
    """An encoded image."""

    content: bytes
    kind: str
    """"png" or "jpeg"."""


def make_page(
    coco: CocoResult,
    analysis: ErrorAnalysis,
    pictures: Mapping[str, Picture],
    unreadable: Sequence[str] = (),
) -> str:
    """Return the page.

    Args:
        coco: The twelve numbers of the same evaluation.
        analysis: The errors.
        pictures: By name: ``precision_recall``, ``thresholds``, ``confusion``, and
            ``worst_images`` if there are any.
        unreadable: Why some of the worst images could not be drawn.
    """
    title = f"Why the detector errs: {analysis.dataset}"
    figures = {name: _figure(name, picture) for name, picture in pictures.items()
               if name in _CAPTIONS}  # fmt: skip
    worst = figures.get("worst_images", "<p>There are no images to draw.</p>")
    sections = [
        ("", f"<p>{coco.images:,} images.</p>{_cards(coco, analysis)}"),
        ("What the errors cost", _kinds(analysis)),
        ("Curves", f'<div class="pair">{figures["precision_recall"]}{figures["thresholds"]}</div>'),
        ("Classes, the worst first", _classes(analysis)),
        ("Confusions", _confusions(analysis) + figures["confusion"]),
        ("Worst images", worst + "".join(f"<p>{escape(reason)}</p>" for reason in unreadable)),
        ("How this was measured", f"<p>{_METHOD}</p>"),
    ]
    body = "\n".join(
        (f"<h2>{heading}</h2>\n" if heading else "") + content for heading, content in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


_METHOD = (
    "Detections are matched with annotations as in COCO&#x27;s evaluation, at an IoU of 0.5: by "
    "falling score, each takes the free object of its class that it overlaps most; crowd regions "
    "are left out. The best threshold is the one of highest F1 over the detections of all classes. "
    "The kinds of errors, and their cost, which is the AP50 gained if one kind alone were "
    "corrected, are those of TIDE (Bolya et al. 2020, arXiv 2008.08115)."
)


def _cards(coco: CocoResult, analysis: ErrorAnalysis) -> str:
    numbers = {"AP": coco.numbers["AP"], "AP50": coco.numbers["AP50"], "AP75": coco.numbers["AP75"]}
    best = analysis.best
    if best is not None:
        numbers |= {"best threshold": best.threshold, "precision there": best.precision,
                    "recall there": best.recall, "F1 there": best.f1}  # fmt: skip
    cards = (f'<div class="card"><small>{name}</small><b>{_number(value)}</b></div>'
             for name, value in numbers.items())  # fmt: skip
    return f'<div class="cards">{"".join(cards)}</div>'


def _kinds(analysis: ErrorAnalysis) -> str:
    most = max(*(kind.ap50_cost for kind in analysis.kinds.values()), 1e-9)
    rows = (
        (
            f"<b>{name}</b><br><small>{escape(ERROR_KINDS[name])}</small>",
            f'{kind.ap50_cost:.3f}<span class="bar" style="width:{kind.ap50_cost / most:.0%}">'
            "</span>",
            f"{kind.at_best:,}",
            f"{kind.total:,}",
        )
        for name, kind in sorted(analysis.kinds.items(), key=lambda item: -item[1].ap50_cost)
    )
    return _table(("kind", "AP50 lost", "at the best threshold", "at any score"), rows)


def _classes(analysis: ErrorAnalysis) -> str:
    ordered = sorted(
        analysis.per_class.items(), key=lambda item: 2 if item[1].ap50 is None else item[1].ap50
    )
    rows = (
        (
            escape(name),
            f"{row.objects:,}",
            _number(row.ap50),
            *(_number(value) for value in _measures(row.at_best)),
            _number(None if row.best is None else row.best.threshold),
            _number(None if row.best is None else row.best.f1),
        )
        for name, row in ordered
    )
    head = (
        "class",
        "objects",
        "AP50",
        "precision",
        "recall",
        "F1",
        "own best threshold",
        "F1 there",
    )
    return f'<div class="long">{_table(head, rows)}</div>'


def _measures(decision: Decision | None) -> Sequence[float | None]:
    return (None,) * 3 if decision is None else decision[1:]


def _confusions(analysis: ErrorAnalysis) -> str:
    names = [*analysis.per_class, BACKGROUND]
    pairs = most_confused(analysis.confusion, 10, background=True)
    if not pairs:
        return "<p>No object is taken for one of another class.</p>"
    rows = (
        (f"{escape(names[pair.true])} → {escape(names[pair.predicted])}", f"{pair.number:,}",
         f"{pair.share:.1%}")
        for pair in pairs
    )  # fmt: skip
    return _table(("annotated → detected", "objects", "of the class"), rows)


def _figure(name: str, picture: Picture) -> str:
    title, text = _CAPTIONS[name]
    data = base64.b64encode(picture.content).decode()
    return (
        f'<figure><img alt="{title}" src="data:image/{picture.kind};base64,{data}">'
        f"<figcaption>{title}. {text}</figcaption></figure>"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already."""
    lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _number(value: float | None) -> str:
    return "-" if value is None or value == NO_GROUND_TRUTH else f"{value:.3f}"
