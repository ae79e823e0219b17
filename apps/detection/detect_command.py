"""The whole of ``mobilevision detect``: what is read, found, written and said."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...heads.detection.coco_metrics import format_table, write_metrics
from ..files.input_files import find_files
from ..files.journal import Journal
from ..inference.detection import Detector
from .detect import DetectOptions, Tally, detect_files
from .detect_results import measure, number_pictures, write_results

JOURNAL_NAME = "progress.jsonl"
_NAMED_CLASSES = 12


def detect(
    inputs: Sequence[str],
    model: Path,
    options: DetectOptions,
    results: Path,
    annotations: Path | None = None,
    device: str = "auto",
    size_hw: tuple[int, int] | None = None,
) -> Tally:
    """Detect in files, write what is found, print a summary and, with annotations, the measures.

    ``<out>/progress.jsonl`` has every file that is done. A run with the same model and options
    goes on from it; other ones begin anew and say so.

    Args:
        inputs: Files, folders and patterns; see ``find_files``.
        model: A file that ``Detector.load`` reads.
        options: What to do with what is found.
        results: File for the COCO results of the pictures.
        annotations: COCO annotations of the pictures.
        device: See ``Detector.load``.
        size_hw: See ``Detector.load``.

    Returns:
        Counts and faults.

    Raises:
        DataError: An input is absent, the model or the annotations cannot be used, or an option is
            out of its range.
    """
    files = find_files(inputs, leave_out=options.out)
    detector = Detector.load(model, device, size_hw)
    numbering = number_pictures(files, annotations, detector.categories)
    with Journal(options.out / JOURNAL_NAME, _work(model, detector, options)) as journal:
        _say_where_from(journal)
        tally = detect_files(detector, files, journal, options)
        tally.faults += numbering.faults
        write_results(results, files, journal, numbering)
        print(_summary(tally, options, results))
        if annotations is not None:
            result = measure(results, files, journal, numbering)
            write_metrics(options.out / "coco_metrics.json", result)
            print(f"\n{format_table(result)}", end="")
    if tally.faults:
        print(f"\n{len(tally.faults):,} files with faults:", *tally.faults, sep="\n  ")
    return tally


def _work(model: Path, detector: Detector, options: DetectOptions) -> dict[str, Any]:
    """What the journal's entries depend on."""
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "model": digest,
        "size_hw": list(detector.size_hw),
        "score_threshold": options.score_threshold,
        "pictures": options.pictures,
    }


def _say_where_from(journal: Journal) -> None:
    if journal.begun_anew:
        changed = ", ".join(name.replace("_", " ") for name in journal.begun_anew)
        print(f"{journal.path}: of other work ({changed}); beginning anew", file=sys.stderr)
    elif len(journal):
        print(f"{journal.path}: {len(journal):,} files are done already", file=sys.stderr)


def _summary(tally: Tally, options: DetectOptions, results: Path) -> str:
    parts = [f"{tally.pictures:,} pictures"]
    if tally.videos:
        parts.append(f"{tally.videos:,} videos with {tally.frames:,} frames")
    lines = [
        f"{' and '.join(parts)}: {tally.objects.total():,} objects that score at least "
        f"{options.score_threshold:g}"
    ]
    common = tally.objects.most_common()
    named = [f"{name} {count:,}" for name, count in common[:_NAMED_CLASSES]]
    if len(common) > _NAMED_CLASSES:
        named.append(f"{len(common) - _NAMED_CLASSES} more classes")
    lines += [f"  {', '.join(named)}"] if named else []
    if options.pictures and tally.pictures:
        lines.append(f"Annotated pictures: {options.out / 'pictures'}")
    if tally.videos:
        lines.append(f"Videos, results by frame: {options.out / 'videos'}")
    lines.append(f"Detections in the COCO results format: {results}")
    return "\n".join(lines)
