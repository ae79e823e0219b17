"""Detect objects in any number of files: COCO results, annotated images and videos.

Free of torch, as far as the model's runtime is.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby, tee
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically
from ...datasets.images import ImageFile
from ...heads.detection.coco_metrics import format_table, write_metrics
from ..inference.detection import DEFAULT_THRESHOLD, DetectionResult, Detector
from ..inference.images import prepare_ahead
from .coco_results import measure, number_pictures, write_results
from .inputs import InputFile, find_files, output_names
from .progress import Listed, Made, ProgressStore
from .runner import Job, file_digest, file_key, run_over_files
from .tables import json_list
from .videos import Video, mp4_writer

PROGRESS_NAME = "progress.sqlite"
_JPEG_QUALITY = 92
_NAMED_CLASSES = 12


@dataclass(frozen=True)
class DetectOptions:
    """What is done with what is found.

    Attributes:
        out: Folder for everything that is written.
        score_threshold: Objects below it are neither drawn nor counted; results have them, down to
            what the network's own post-processing keeps, because measures need them.
        batch_size: Pictures that go through the network at once.
        pictures: Whether to write annotated pictures and videos.
    """

    out: Path
    score_threshold: float = DEFAULT_THRESHOLD
    batch_size: int = 8
    pictures: bool = True


@dataclass
class Tally:
    """What a run came to, earlier runs included."""

    pictures: int = 0
    videos: int = 0
    frames: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    """Class name -> objects at the score threshold or above."""
    faults: list[str] = field(default_factory=list)
    """A message for each file that could not be read."""


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

    ``<out>/progress.sqlite`` has every file that is done. A run with the same model and options
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
    job = DetectJob(detector, model, options)
    named = [(file, file.name, file_key(file)) for file in files]
    with run_over_files(named, job, options.out / PROGRESS_NAME) as store:
        tally = _tally(store)
        tally.faults += numbering.faults
        write_results(results, store, numbering)
        print(_summary(tally, options, results))
        if annotations is not None:
            result = measure(results, store, numbering)
            write_metrics(options.out / "coco_metrics.json", result)
            print(f"\n{format_table(result)}", end="")
    if tally.faults:
        print(f"\n{len(tally.faults):,} files with faults:", *tally.faults, sep="\n  ")
    return tally


class DetectJob(Job):
    """Objects in images and in the frames of videos; see ``Job``.

    Annotated images are ``<out>/pictures/<name>.jpg``, annotated videos
    ``<out>/videos/<name>.mp4`` with ``<name>.json``: COCO results whose image ids are frame
    numbers from 0. They are there before a file counts as done.

    Args:
        detector: The model.
        model: Its file, which the results depend on.
        options: What to do.
    """

    def __init__(self, detector: Detector, model: Path, options: DetectOptions) -> None:
        self.detector = detector
        self.options = options
        self.files_at_once = options.batch_size
        self.depends = {
            "model": file_digest(model),
            "size_hw": list(detector.size_hw),
            "score_threshold": options.score_threshold,
            "pictures": options.pictures,
        }
        self._names: dict[int, str] = {}

    def begin(self, store: ProgressStore) -> None:
        """Give every file that is not done a name for what is written of it, none of them twice."""
        taken = [json.loads(made.content)["name"] for _, made in store.results()]
        left = list(store.pending())
        names = output_names([InputFile(file.path, file.name) for file in left], taken)
        self._names = {file.position: name for file, name in zip(left, names, strict=True)}

    def __call__(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        """See ``Job``."""
        for is_video, group in groupby(files, lambda file: InputFile(file.path, "").is_video):
            make = self._videos if is_video else self._images
            yield from make(group)

    def _images(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        """Images are drawn in background threads."""
        listed, read = tee(files)
        sources = (ImageFile(file.path) for file in read)
        outcomes = self.detector.stream(sources, 0.0, self.options.batch_size)
        pairs = zip(listed, outcomes, strict=True)
        ahead = 2 * self.options.batch_size
        for (file, _), made in prepare_ahead(pairs, self._finish, ahead):
            yield file, made

    def _finish(self, item: tuple[Listed, DetectionResult | DataError]) -> Made:
        file, result = item
        if isinstance(result, DataError):
            raise result
        name, options = self._names[file.position], self.options
        if options.pictures:
            with replaced_atomically(options.out / "pictures" / f"{name}.jpg") as temporary:
                result.plot(options.score_threshold).save(temporary, quality=_JPEG_QUALITY)
        found = [[row["category_id"], *row["bbox"], row["score"]] for row in result.to_coco(0)]
        return _packed(
            name,
            len(found),
            size_hw=list(result.size_hw),
            found=found,
            objects=result.above(options.score_threshold).counts,
        )

    def _videos(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        for file in files:
            try:
                yield file, self._video(file)
            except DataError as error:
                yield file, error

    def _video(self, file: Listed) -> Made:
        """Detect in every frame; nothing is written of a video that breaks off."""
        options, name = self.options, self._names[file.position]
        video = Video(file.path)
        base = options.out / "videos" / name
        film = mp4_writer(Path(f"{base}.mp4"), video.fps) if options.pictures else nullcontext()
        objects: Counter[str] = Counter()
        count = 0
        with json_list(Path(f"{base}.json")) as add_rows, film as writer:
            outcomes = self.detector.stream(video.frames(), 0.0, options.batch_size)
            total = video.declared_frames or None
            for result in tqdm(outcomes, file.name, total, leave=False, unit="frame"):
                if isinstance(result, DataError):
                    raise result
                add_rows(result.to_coco(count))
                objects.update(result.above(options.score_threshold).counts)
                if writer is not None:
                    writer.write(np.asarray(result.plot(options.score_threshold)))
                count += 1
        return _packed(name, count, frames=count, objects=dict(objects))


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
            tally.pictures += 1
    return tally


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
