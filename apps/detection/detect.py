"""``mobilevision detect``: a detector over files, with annotated pictures and a journal.

Free of torch, as far as the detector's engine is.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically
from ...datasets.images import ImageFile
from ..files.input_files import InputFile, output_names
from ..files.journal import Journal
from ..files.json_rows import json_list
from ..files.videos import Video, mp4_writer
from ..inference.detection import DEFAULT_THRESHOLD, DetectionResult, Detector
from ..inference.images import prepare_ahead

_JPEG_QUALITY = 92


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


class _Job(NamedTuple):
    """A file that is not done."""

    file: InputFile
    key: str
    name: str
    """Of what is written, without folder and extension."""


def journal_key(file: InputFile) -> str:
    """What the journal calls a file: another size or time of change makes it another file."""
    status = file.path.stat()
    return f"{file.path.absolute()}|{status.st_size}|{status.st_mtime_ns}"


def detect_files(
    detector: Detector, files: Sequence[InputFile], journal: Journal, options: DetectOptions
) -> Tally:
    """Detect in all files that the journal does not have, and enter them.

    Annotated pictures are ``<out>/pictures/<name>.jpg``, annotated videos
    ``<out>/videos/<name>.mp4`` with ``<name>.json``: COCO results whose image ids are frame
    numbers from 0. They are there before the journal has the file.

    Args:
        detector: The model.
        files: From ``find_files``.
        journal: Of this model and these options.
        options: What to do.

    Returns:
        Counts, and what could not be read; such a file is tried again the next time.
    """
    keys = [journal_key(file) for file in files]
    names = (journal[key]["name"] for key in keys if key in journal)
    left = [(file, key) for file, key in zip(files, keys, strict=True) if key not in journal]
    names = output_names([file for file, _ in left], names)
    jobs = [_Job(*pair, name) for pair, name in zip(left, names, strict=True)]
    tally = Tally()
    with tqdm(total=len(files), initial=len(files) - len(jobs), unit="file") as bar:
        pictures = [job for job in jobs if not job.file.is_video]
        for entries, faults in _detect_pictures(detector, pictures, options):
            journal.append(entries)
            tally.faults += faults
            bar.update(len(entries) + len(faults))
        for job in jobs:
            if job.file.is_video:
                try:
                    journal.append([(job.key, _detect_video(detector, job, options))])
                except DataError as error:
                    tally.faults.append(str(error))
                bar.update()
    for file, key in zip(files, keys, strict=True):
        if key in journal:
            _count(tally, file, journal[key])
    return tally


def _count(tally: Tally, file: InputFile, entry: dict[str, Any]) -> None:
    tally.objects.update(entry["objects"])
    if file.is_video:
        tally.videos += 1
        tally.frames += entry["frames"]
    else:
        tally.pictures += 1


def _detect_pictures(
    detector: Detector, jobs: Sequence[_Job], options: DetectOptions
) -> Iterator[tuple[list[tuple[str, dict[str, Any]]], list[str]]]:
    """Yield for each batch its entries and its faults; pictures are drawn in background threads."""

    def finish(item: tuple[_Job, DetectionResult | DataError]) -> dict[str, Any]:
        job, outcome = item
        if isinstance(outcome, DataError):
            raise outcome
        if options.pictures:
            with replaced_atomically(options.out / "pictures" / f"{job.name}.jpg") as temporary:
                outcome.plot(options.score_threshold).save(temporary, quality=_JPEG_QUALITY)
        return _entry(job.name, outcome, options)

    sources = (ImageFile(job.file.path) for job in jobs)
    outcomes = zip(jobs, detector.stream(sources, 0.0, options.batch_size), strict=True)
    finished = prepare_ahead(outcomes, finish, ahead=2 * options.batch_size)
    while batch := list(islice(finished, options.batch_size)):
        good = [(job.key, entry) for (job, _), entry in batch if isinstance(entry, dict)]
        yield good, [str(entry) for _, entry in batch if isinstance(entry, DataError)]


def _entry(name: str, result: DetectionResult, options: DetectOptions) -> dict[str, Any]:
    found = [[row["category_id"], *row["bbox"], row["score"]] for row in result.to_coco(0)]
    return {
        "name": name,
        "size_hw": list(result.size_hw),
        "found": found,
        "objects": result.above(options.score_threshold).counts,
    }


def _detect_video(detector: Detector, job: _Job, options: DetectOptions) -> dict[str, Any]:
    """Detect in every frame; nothing is written of a video that breaks off."""
    video = Video(job.file.path)
    base = options.out / "videos" / job.name
    film = mp4_writer(Path(f"{base}.mp4"), video.fps) if options.pictures else nullcontext()
    objects: Counter[str] = Counter()
    count = 0
    with json_list(Path(f"{base}.json")) as add_rows, film as writer:
        outcomes = detector.stream(video.frames(), 0.0, options.batch_size)
        total = video.declared_frames or None
        for result in tqdm(outcomes, job.file.name, total, leave=False, unit="frame"):
            if isinstance(result, DataError):
                raise result
            add_rows(result.to_coco(count))
            objects.update(result.above(options.score_threshold).counts)
            if writer is not None:
                writer.write(np.asarray(result.plot(options.score_threshold)))
            count += 1
    return {"name": job.name, "frames": count, "objects": dict(objects)}
