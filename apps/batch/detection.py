"""Detect objects in any number of files: COCO results, annotated images and videos.

No torch, unless the model's runtime needs it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...datasets.data_errors import FaultKind, Faults
from ...datasets.detection.annotations import Annotations, find
from ...datasets.detection.coco import read_coco
from ...datasets.detection.image_checks import fit_to_images
from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically, write_atomically
from ...heads.detection.coco_metrics import CocoResult, evaluate_boxes, format_table, write_metrics
from ...heads.detection.error_analysis import analyze_errors
from ..drawing import draw_detections
from ..error_report.report import Evaluated, write_report
from ..inference.detection import DetectionResult, Detector
from ..inference.predictor import ImageSource, prepare_ahead
from ..inference.tiles import TiledDetector
from .inputs import InputFile, find_files, output_names
from .runner import (
    Job,
    Listed,
    Made,
    ProgressStore,
    file_digest,
    over_images,
    predict_frames,
    run_over_files,
)
from .showing import JPEG_QUALITY, Showing, Window
from .tracking import Tracking
from .videos import StreamLostError


@dataclass(frozen=True)
class Numbering:
    """The image ids of the images.

    Attributes:
        ids: path or address -> image id.
        annotations: The ground truth, with the paths of the images; None if there is none.
        faults: A message for each image that the annotations do not name.
    """

    ids: dict[str, int]
    annotations: Annotations | None
    faults: list[str]


def number_images(
    files: Sequence[InputFile], annotation_file: Path | None, categories: dict[int, str]
) -> Numbering:
    """Give every image an image id: that of the annotation file, or 1, 2, ...

    Annotations are matched by name: the path of an image must end in its ``file_name``. Images at
    addresses have none.

    Args:
        files: From ``find_files``; videos and streams have no id.
        annotation_file: COCO annotations, or None.
        categories: Id -> name of the model's categories.

    Raises:
        DataError: The annotations are faulty, match two of the files by one name or none of the
            files, or give the model's category ids to other classes.
    """
    images = [file for file in files if file.kind == "image"]
    if annotation_file is None:
        ids = {file.address or str(file.path): number for number, file in enumerate(images, 1)}
        return Numbering(ids, None, [])
    image_paths = [file.path for file in images if not file.address]
    if not image_paths:
        raise DataError(
            f"{annotation_file}: no image file among the inputs that it could describe."
        )
    annotations = read_coco(annotation_file, annotation_file.parent)
    _check_categories(annotation_file, annotations.categories, categories)
    rows, unknown = _match(image_paths, annotations.images.file_names.tolist())
    if not rows:
        raise DataError(
            f"{annotation_file}: describes none of the {len(image_paths):,} images; its first is "
            f"{annotations.images.file_names[0]}. Give the annotations of these images."
        )
    unknown += [file.path for file in images if file.address]
    faults = [f"{path}: not in {annotation_file}, so not in the results" for path in unknown]
    chosen = np.array(sorted(rows))
    paths = np.array([str(rows[row]) for row in chosen], dtype=object)
    matched = annotations.select(chosen)
    matched = replace(matched, images=matched.images._replace(paths=paths), faults=Faults("skip"))
    fitted = fit_to_images(matched)  # unreadable images are reported by detection
    faults += fitted.faults.messages.get(FaultKind.SIZE, [])
    pairs = zip(fitted.images.paths.tolist(), fitted.images.ids.tolist(), strict=True)
    return Numbering(dict(pairs), fitted, faults)


def _check_categories(file: Path, declared: dict[int, str], known: dict[int, str]) -> None:
    shared = declared.keys() & known.keys()
    if any(declared[key].casefold() == known[key].casefold() for key in shared):
        return
    some = ", ".join(f"{key} {name}" for key, name in list(known.items())[:3])
    others = ", ".join(f"{key} {name}" for key, name in list(declared.items())[:3])
    raise DataError(
        f"{file}: no category has the id and the name of one of the model's. The model's are "
        f"{some}, ...; the file's {others}, ... Give annotations with the model's categories."
    )


def _match(images: Sequence[Path], file_names: Sequence[str]) -> tuple[dict[int, Path], list[Path]]:
    """Return row of the annotations -> image, and the images without a row."""
    by_name: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    for row, name in enumerate(file_names):
        parts = PurePosixPath(name).parts
        by_name.setdefault(parts[-1], []).append((row, parts))
    rows: dict[int, Path] = {}
    unknown = []
    for path in images:
        path_parts = path.absolute().parts
        fitting = [(len(parts), row) for row, parts in by_name.get(path.name, [])
                   if path_parts[-len(parts) :] == parts]  # fmt: skip
        if not fitting:
            unknown.append(path)
            continue
        row = max(fitting)[1]  # the longest name is the most specific
        if row in rows:
            raise DataError(
                f"{rows[row]} and {path} are both called {file_names[row]}, which the annotations "
                "have once. Give one of them, or only the folder of the annotated images."
            )
        rows[row] = path
    return rows, unknown


def write_results(path: Path, store: ProgressStore, numbering: Numbering) -> None:
    """Write all detections in images in COCO's results format, in the order of the files.

    Files without an image id are left out. Image ids without an annotation file are described, in
    COCO's format, in ``<name of path>_images.json`` in the same folder.
    """
    images = []
    with json_list(path) as add_rows:
        for file, number, entry in _entries(store, numbering):
            add_rows(
                {"image_id": number, "category_id": row[0], "bbox": row[1:5], "score": row[5]}
                for row in entry["found"]
            )
            height, width = entry["size_hw"]
            images.append({"id": number, "file_name": file.name, "height": height, "width": width})
    if numbering.annotations is None:
        listing = path.with_name(f"{path.stem}_images.json")
        write_atomically(listing, json.dumps({"images": images}, indent=1).encode())


def measure(
    path: Path, store: ProgressStore, numbering: Numbering, folder: Path
) -> tuple[CocoResult, Path]:
    """Measure the file of ``write_results`` on the images that are done.

    Returns:
        COCO's metrics, and the report about the errors; a folder gets both.
    """
    assert numbering.annotations is not None
    done = [number for _, number, _ in _entries(store, numbering)]
    kept, _ = find(numbering.annotations.images.ids, np.array(done, dtype=np.int64))
    annotations = numbering.annotations.select(kept)
    results: list[dict[str, Any]] = json.loads(path.read_bytes())
    truth, categories = annotations.ground_truth, annotations.categories
    measured = (truth, results, annotations.name, categories)
    result = evaluate_boxes(*measured)
    write_metrics(folder / "coco_metrics.json", result)
    images = annotations.images
    paths = dict(zip(images.ids.tolist(), images.paths.tolist(), strict=True))
    evaluated = Evaluated(truth, results, categories, paths)
    return result, write_report(folder, result, analyze_errors(*measured), evaluated)


def _entries(
    store: ProgressStore, numbering: Numbering
) -> Iterator[tuple[Listed, int, dict[str, Any]]]:
    """Yield file, image id and result of every image that has an id and is done."""
    for file, made in store.results():
        number = numbering.ids.get(file.address or str(file.path))
        if number is not None:
            yield file, number, json.loads(made.content)


_NAMED_CLASSES = 12


@dataclass(frozen=True)
class DetectOptions:
    """Options of ``detect``.

    Attributes:
        out: Folder of the output.
        score_threshold: Objects below it are neither drawn nor counted; None takes that of the
            detector. The results include them, down to the network's own threshold, because average
            precision needs them.
        batch_size: Number of images that go through the network at once.
        images: Whether to write annotated images and videos.
        window: Shows them, or None.
        tile_wh: Look at tiles of this width and height, too: see ``TiledDetector``. None does not,
            (0, 0) takes the size of the network's input.
        track: Number the objects of videos from frame to frame: see ``Tracking``. Only objects with
            a number are drawn, and each is counted once.
    """

    out: Path
    score_threshold: float | None = None
    batch_size: int = 8
    images: bool = True
    window: Window | None = None
    tile_wh: tuple[int, int] | None = None
    track: bool = False


@dataclass
class Tally:
    """Counts of this run's files, with the results of earlier runs."""

    images: int = 0
    videos: int = 0
    frames: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    """Class name -> number of objects at the score threshold or above."""
    faults: list[str] = field(default_factory=list)
    """A message for each file that could not be read."""


def detect(
    inputs: Sequence[str],
    model: str | Path | None,
    options: DetectOptions,
    results: Path,
    annotations: Path | None = None,
    device: str = "auto",
    size_hw: tuple[int, int] | None = None,
) -> Tally:
    """Detect in files and streams, write the results and print a summary or the metrics.

    ``<out>/progress.sqlite`` keeps the results of every file, from which a run with the same model
    and options is continued. Other runs begin anew and print that they do.

    Args:
        inputs: See ``find_files``, with ``addresses``.
        model: See ``Detector.load``.
        options: See there.
        results: File for the COCO results of the images.
        annotations: COCO annotations of the images.
        device: See ``Detector.load``.
        size_hw: See ``Detector.load``.

    Raises:
        DataError: An input is absent, the model or the annotations cannot be used, or an option is
            out of range.
    """
    files = find_files(inputs, leave_out=options.out, addresses=True)
    model = Detector.find(model, size_hw)
    detector = Detector.load(model, device, size_hw)
    numbering = number_images(files, annotations, detector.categories)
    job = DetectJob(detector, model, options)
    with run_over_files(files, job, options.out / "progress.sqlite") as store:
        tally = _tally(store)
        tally.faults += numbering.faults
        write_results(results, store, numbering)
        print(_summary(tally, options, job.score_threshold, results))
        if annotations is not None:
            result, report = measure(results, store, numbering, options.out)
            print(f"\n{format_table(result)}Why it errs: {report}")
    if tally.faults:
        print(f"\n{len(tally.faults):,} files with faults:", *tally.faults, sep="\n  ")
    return tally


class DetectJob(Job):
    """The ``Job`` that detects objects in images and in the frames of videos and streams.

    Annotated images are ``<out>/pictures/<name>.jpg``, annotated videos ``<out>/videos/<name>.mp4``
    with ``<name>.json``: COCO results whose image ids are frame numbers from 0, with ``time_s``.
    They are complete before a file counts as done. The results depend on the content of the file
    ``model``.
    """

    def __init__(self, detector: Detector, model: Path, options: DetectOptions) -> None:
        self.detector = detector
        self.options = options
        given = options.score_threshold
        self.score_threshold = detector.score_threshold if given is None else given
        self.stream = detector.stream
        if options.tile_wh is not None:
            self.stream = TiledDetector(detector, options.tile_wh).stream
        if options.track:
            Tracking(1.0, self.score_threshold)  # without its package, nothing is begun
        self.files_at_once = options.batch_size
        self.depends = {
            "model": file_digest(model),
            "size_hw": detector.input_size,
            "score_threshold": self.score_threshold,
            "pictures": options.images,
            "tiles": None if options.tile_wh is None else list(options.tile_wh),
            "track": options.track,
        }
        self._names: dict[int, str] = {}

    def begin(self, store: ProgressStore) -> None:
        """Give the output of every file that is not done a unique name."""
        taken = [json.loads(made.content)["name"] for _, made in store.results()]
        pending = list(store.pending())
        names = output_names([InputFile(file.path, file.name) for file in pending], taken)
        self._names = {file.position: name for file, name in zip(pending, names, strict=True)}

    def __call__(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        """See ``Job``."""
        for kind, group in groupby(files, lambda file: file.kind):
            make = self._images if kind == "image" else self._videos
            yield from make(group)

    def _images(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        """Detect in images, and draw them in background threads."""
        window = self.options.window
        found = over_images(files, self._predict)
        detected = ((file, result) for file, _, result in found)
        ahead = 2 * self.options.batch_size
        for (file, result), made in prepare_ahead(detected, self._finish, ahead):
            if window is not None and not window.closed and not isinstance(result, DataError):
                window.show(self._draw(result.image.read(), result), file.name)
            yield file, made

    def _finish(self, item: tuple[Listed, DetectionResult | DataError]) -> Made:
        file, result = item
        if isinstance(result, DataError):
            raise result
        name, options = self._names[file.position], self.options
        if options.images:
            with replaced_atomically(options.out / "pictures" / f"{name}.jpg") as temporary:
                result.plot(self.score_threshold).save(temporary, quality=JPEG_QUALITY)
        found = [[row["category_id"], *row["bbox"], row["score"]] for row in result.to_coco(0)]
        return _packed(
            name,
            len(found),
            size_hw=list(result.size_hw),
            found=found,
            objects=result.above(self.score_threshold).counts,
        )

    def _videos(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        for file in files:
            try:
                made, lost = self._video(file)
            except DataError as error:
                yield file, error
                continue
            yield file, made
            if lost is not None:
                yield file, lost

    def _video(self, file: Listed) -> tuple[Made, StreamLostError | None]:
        """Detect in every frame; nothing is written if a video ends too early.

        What was found in a stream before it broke off is kept.
        """
        options, name = self.options, self._names[file.position]
        video, base = file.open(), options.out / "videos" / name
        film = Path(f"{base}.mp4") if options.images else None
        showing = Showing(self._draw, window=options.window)
        objects: Counter[str] = Counter()
        track = Tracking(video.fps, self.score_threshold) if options.track else None
        tracks: dict[int, str] = {}
        count, lost = 0, None
        with (
            json_list(Path(f"{base}.json")) as add_rows,
            showing.video(film, file.name, video.fps, video.live) as draw,
        ):
            try:
                for frame, found in predict_frames(video, file.name, self._predict):
                    result = found if track is None else track(found)
                    shown = found.above(self.score_threshold) if track is None else result.tracked()
                    tracks |= shown.names_by_track
                    objects.update(shown.counts if track is None else {})
                    add_rows({**row, "time_s": round(frame.time_s, 3)}
                             for row in result.to_coco(frame.number))  # fmt: skip
                    draw(frame, shown)
                    count += 1
                    if video.live and showing.closed:
                        break
            except StreamLostError as error:
                lost = error
        objects.update(tracks.values())
        return _packed(name, count, frames=count, objects=dict(objects)), lost

    def _predict(self, images: Iterator[ImageSource]) -> Iterator[DetectionResult | DataError]:
        return self.stream(images, 0.0, self.options.batch_size)

    def _draw(self, pixels: np.ndarray, result: DetectionResult) -> np.ndarray:
        names = list(result.categories.values())
        threshold = self.score_threshold if result.tracks is None else 0.0
        return draw_detections(pixels, result, names, threshold)


def _packed(name: str, rows: int, **entry: Any) -> Made:
    return Made(rows, json.dumps({"name": name, **entry}, separators=(",", ":")).encode())


def _tally(store: ProgressStore) -> Tally:
    tally = Tally(faults=list(store.faults()))
    for _, made in store.results():
        entry = json.loads(made.content)
        tally.objects.update(entry["objects"])
        if "frames" in entry:
            tally.videos += 1
            tally.frames += entry["frames"]
        else:
            tally.images += 1
    return tally


def _summary(tally: Tally, options: DetectOptions, threshold: float, results: Path) -> str:
    parts = [_counted(tally.images, "image")] if tally.images or not tally.videos else []
    if tally.videos:
        parts.append(f"{_counted(tally.videos, 'video')} of {_counted(tally.frames, 'frame')}")
    objects = _counted(tally.objects.total(), "object")
    lines = [f"{' and '.join(parts)}: {objects} with a score of at least {threshold:.3g}"]
    common = tally.objects.most_common()
    named = [f"{name} {count:,}" for name, count in common[:_NAMED_CLASSES]]
    if len(common) > _NAMED_CLASSES:
        named.append(f"{len(common) - _NAMED_CLASSES} more classes")
    lines += [f"  {', '.join(named)}"] if named else []
    if options.images and tally.images:
        lines.append(f"Annotated images: {options.out / 'pictures'}")
    if tally.videos:
        lines.append(f"Videos, results by frame: {options.out / 'videos'}")
    lines.append(f"Detections in the COCO results format: {results}")
    return "\n".join(lines)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@contextmanager
def json_list(path: Path) -> Iterator[Callable[[Iterable[Any]], None]]:
    """Write a JSON list row by row, each on a line; the file appears when the list is complete.

    Yields a function that adds rows.
    """
    with replaced_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        separator = "[\n"

        def add(rows: Iterable[Any]) -> None:
            nonlocal separator
            for row in rows:
                file.write(separator + json.dumps(row, separators=(",", ":"), ensure_ascii=False))
                separator = ",\n"

        yield add
        file.write("[]\n" if separator == "[\n" else "\n]\n")
