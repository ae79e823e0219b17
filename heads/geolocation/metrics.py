"""The measures of geolocation: how many answers lie within 1, 25, 200, 750 and 2500 km.

The distances stand for street, city, region, country and continent (Hays & Efros 2008; Weyand et
al. 2016, Section 4.1). torch is imported only where processes are gathered.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...datasets.files import write_atomically
from ...datasets.geolocation.geodesy import EARTH_RADIUS_KM, distance_km, unit_vectors
from ..distributed import gather_by_id
from .continents import CONTINENTS, continent_of
from .decoding import HELD, Calibration, Places

WITHIN_KM = (1, 25, 200, 750, 2500)
NAMES = ("street", "city", "region", "country", "continent")
_CHUNK = 1024


class GeolocationResult(NamedTuple):
    """What an evaluation measured; shares are in [0, 1]."""

    dataset: str
    photos: int
    within_km: dict[int, float]
    """Distance in km -> share of the photos whose answer is at most as far from the truth."""
    median_km: float
    """Median error."""
    coverage: dict[str, float]
    """"50" and "90": share of the photos that lie in the radius said to hold so many per cent."""
    median_radius_km: dict[str, float]
    """"50" and "90": median radius; of two that hold as much, the smaller says more."""
    per_continent: dict[str, dict[str, Any]]
    """By continent of the truth: ``photos``, ``within_km``, ``median_km``."""
    chance: dict[int, float]
    """What answering a cell by lot would reach."""
    constant: dict[int, float]
    """What the best cell for this very data would reach if it were always the answer, chosen anew
    for each distance: no constant guess among the cells does better."""
    calibration: Calibration | None = None
    """What the radii trust; None where nothing was calibrated."""
    cross_fitted: bool = False
    """Whether the calibration is of these very photos, and ``coverage`` therefore cross-fitted."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "dataset": self.dataset,
            "photos": self.photos,
            "within_km": _by_text(self.within_km),
            "median_km": self.median_km,
            "coverage": self.coverage,
            "coverage_is_cross_fitted": self.cross_fitted,
            "median_radius_km": self.median_radius_km,
            "calibration": None if self.calibration is None else self.calibration.to_plain(),
            "per_continent": {
                name: {**row, "within_km": _by_text(row["within_km"])}
                for name, row in self.per_continent.items()
            },
            "chance": _by_text(self.chance),
            "best_constant": _by_text(self.constant),
        }


def _by_text(shares: dict[int, float]) -> dict[str, float]:
    return {str(distance): share for distance, share in shares.items()}


class Predictions(NamedTuple):
    """Answers for N photos, sorted by id, each photo once."""

    ids: np.ndarray
    """(N,) int64."""
    truth_deg: np.ndarray
    """(N, 2) float64."""
    latlng_deg: np.ndarray
    """(N, 2) float64, the answers."""
    cells: np.ndarray
    """(N,) int64."""
    scores: np.ndarray
    """(N,) float64."""
    radii_km: np.ndarray
    """(N, 2) float64, see ``decoding.Places``."""

    @property
    def error_km(self) -> np.ndarray:
        """(N,) float64."""
        return distance_km(self.truth_deg, self.latlng_deg)


class GeolocationEvaluator:
    """Collects answers and measures them once all are there.

    Right under torch.distributed: photos are told apart by id, and the duplicates with which
    Lightning pads the last batch are dropped.

    Args:
        tokens: S2 tokens of the cells, in the order of the class index.
        centers_deg: (C, 2) what the cells answer, for the constant guesses.
        dataset: The name to report.
    """

    def __init__(self, tokens: Sequence[str], centers_deg: np.ndarray, dataset: str) -> None:
        self.tokens = tokens
        self.centers_deg = centers_deg
        self.dataset = dataset
        self._parts: list[Predictions] = []
        self._paths: dict[int, str] = {}
        self._gathered: Predictions | None = None

    def update(
        self, ids: np.ndarray, truth_deg: np.ndarray, places: Places, paths: Sequence[str] = ()
    ) -> None:
        """Add a batch: ids (B,) int64, true positions (B, 2), answers, and B files."""
        self._parts.append(
            Predictions(
                ids,
                np.asarray(truth_deg, np.float64),
                places.latlng_deg,
                places.cells,
                places.scores,
                places.radii_km,
            )
        )
        self._paths.update(zip(ids.tolist(), paths, strict=False))

    def gather(self) -> Predictions:
        """Give every process the answers of all; call it on all of them.

        Raises:
            DataError: There are none.
        """
        merged, self._paths = gather_by_id(self._parts, self._paths, self.dataset)
        self._parts = [merged]
        self._gathered = merged
        return merged

    def compute(self) -> GeolocationResult:
        """Gather, then measure; call it on all processes, which get the same result."""
        return measure(self.gather(), self.centers_deg, self.dataset)

    @property
    def gathered(self) -> Predictions | None:
        """What :meth:`gather` returned last; None before."""
        return self._gathered

    def to_csv(self) -> str:
        """One line a photo; after :meth:`gather` or :meth:`compute` those of all processes."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["file", "latitude", "longitude", "cell", "probability", "radius_50_km",
             "radius_90_km", "true_latitude", "true_longitude", "error_km"]
        )  # fmt: skip
        for part in self._parts:
            for row, number in enumerate(part.ids.tolist()):
                answer, truth = part.latlng_deg[row], part.truth_deg[row]
                writer.writerow(
                    [self._paths.get(number, number), *(f"{value:.6f}" for value in answer),
                     self.tokens[part.cells[row]], f"{part.scores[row]:.6f}",
                     *(f"{value:.3f}" for value in part.radii_km[row]),
                     *(f"{value:.6f}" for value in truth), f"{part.error_km[row]:.3f}"]
                )  # fmt: skip
        return text.getvalue()


def shares_within(error_km: np.ndarray) -> dict[int, float]:
    """Share of errors (N,), N at least 1, that are at most each of the five distances."""
    return {distance: float((error_km <= distance).mean()) for distance in WITHIN_KM}


def guesses(
    truth_deg: np.ndarray, centers_deg: np.ndarray
) -> tuple[dict[int, float], dict[int, float]]:
    """What guesses without looking reach: a cell by lot, and the best cell as a constant.

    Args:
        truth_deg: (N, 2) true positions.
        centers_deg: (C, 2) what the cells answer.

    Returns:
        Share within each distance by chance, and at most by a constant.
    """
    centers, photos = unit_vectors(centers_deg), unit_vectors(truth_deg)
    hits = np.zeros((len(WITHIN_KM), len(centers)))
    # Chords grow with distances, so these are the same comparisons.
    chords = 2 * np.sin(np.array(WITHIN_KM) / EARTH_RADIUS_KM / 2)
    for start in range(0, len(photos), _CHUNK):
        part = photos[start : start + _CHUNK]
        square = np.maximum(2 - 2 * centers @ part.T, 0)
        hits += [(square <= chord**2).sum(axis=1) for chord in chords]
    shares = hits / len(photos)
    means, best = shares.mean(axis=1).tolist(), shares.max(axis=1).tolist()
    return dict(zip(WITHIN_KM, means, strict=True)), dict(zip(WITHIN_KM, best, strict=True))


def measure(predictions: Predictions, centers_deg: np.ndarray, dataset: str) -> GeolocationResult:
    """Measure answers, at least one."""
    error = predictions.error_km
    where = continent_of(predictions.truth_deg)
    per_continent = {
        name: {
            "photos": int((where == index).sum()),
            "within_km": shares_within(error[where == index]),
            "median_km": float(np.median(error[where == index])),
        }
        for index, name in enumerate(CONTINENTS)
        if (where == index).any()
    }
    chance, constant = guesses(predictions.truth_deg, centers_deg)
    covered = (error[:, None] <= predictions.radii_km).mean(axis=0).tolist()
    return GeolocationResult(
        dataset=dataset,
        photos=len(error),
        within_km=shares_within(error),
        median_km=float(np.median(error)),
        coverage=by_share(covered),
        median_radius_km=by_share(np.median(predictions.radii_km, axis=0).tolist()),
        per_continent=per_continent,
        chance=chance,
        constant=constant,
    )


def by_share(values: Sequence[float]) -> dict[str, float]:
    """A value for each of the shares ``HELD``, by their per cent: "50" and "90"."""
    return {f"{100 * share:.0f}": value for share, value in zip(HELD, values, strict=True)}


def format_table(result: GeolocationResult) -> str:
    """The five distances against guesses, the radii, and the continents, as plain text."""
    head = "".join(f"{f'{distance} km':>10}" for distance in WITHIN_KM)
    lines = [
        f"Geolocation of {result.dataset}: {result.photos:,} photos, "
        f"median error {result.median_km:,.1f} km",
        f" {'within':<16}{head}",
        f" {'':<16}" + "".join(f"{name:>10}" for name in NAMES),
    ]
    rows = {"answers": result.within_km, "best constant": result.constant, "chance": result.chance}
    lines += [f" {name:<16}{_cells(shares)}" for name, shares in rows.items()]
    lines.append(" " + "-" * (15 + len(head)))
    for name, row in result.per_continent.items():
        lines.append(
            f" {name:<16}{_cells(row['within_km'])}  {row['photos']:>6,} photos, "
            f"median {row['median_km']:,.1f} km"
        )
    lines += _radii_lines(result)
    return "\n".join(lines) + "\n"


def _radii_lines(result: GeolocationResult) -> list[str]:
    lines = [
        f"Radius for {name} %: holds {100 * share:.1f} % of the photos, "
        f"median {result.median_radius_km[name]:,.1f} km"
        for name, share in result.coverage.items()
    ]
    known = result.calibration
    if known is None:
        return [*lines, "Not calibrated: the radii trust the probabilities as they are"]
    said = f"Calibrated on {known.photos:,} photos of {known.dataset}"
    if result.cross_fitted:
        said += " (each half measured with the levels of the other)"
    levels = " and ".join(f"{level:.3f}" for level in known.levels)
    return [*lines, f"{said}: temperature {known.temperature:.2f}, levels {levels}"]


def _cells(shares: dict[int, float]) -> str:
    return "".join(f"{shares[distance]:>10.3f}" for distance in WITHIN_KM)


def write_metrics(path: Path, result: GeolocationResult) -> None:
    """Write the result as JSON (``geo_metrics.json``), atomically."""
    write_atomically(path, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
