"""The measures of geolocation: the share of predictions within 1, 25, 200, 750 and 2500 km.

The distances stand for street, city, region, country and continent (Hays & Efros 2008; Weyand et
al. 2016, Section 4.1).
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...datasets.geolocation.geodesy import EARTH_RADIUS_KM, distance_km, unit_vectors
from ..distributed import SampleEvaluator
from .continents import CONTINENTS, continent_of
from .decoding import HELD, Calibration, Places

WITHIN_KM = (1, 25, 200, 750, 2500)
NAMES = ("street", "city", "region", "country", "continent")
_CHUNK = 1024


class GeolocationResult(NamedTuple):
    """The measures of an evaluation; shares are in [0, 1]."""

    dataset: str
    photos: int
    within_km: dict[int, float]
    """Distance in km -> share of the photos predicted at most that far from the truth."""
    median_km: float
    """Median error."""
    coverage: dict[str, float]
    """"50" and "90": share of the photos that lie in the radius of so many per cent."""
    median_radius_km: dict[str, float]
    """"50" and "90": median radius."""
    per_continent: dict[str, dict[str, Any]]
    """By continent of the truth: ``photos``, ``within_km``, ``median_km``."""
    chance: dict[int, float]
    """Share within each distance of a random cell."""
    constant: dict[int, float]
    """The same of the one best cell for this data, chosen anew for each distance."""
    calibration: Calibration | None = None
    """Calibration of the radii, if there is one."""
    cross_fitted: bool = False
    """Whether the calibration is of these very photos, and ``coverage`` therefore cross-fitted."""

    def to_json(self) -> str:
        """Return the measures as JSON."""
        content = {
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
        return json.dumps(content, indent=1) + "\n"


def _by_text(shares: dict[int, float]) -> dict[str, float]:
    return {str(distance): share for distance, share in shares.items()}


class Predictions(NamedTuple):
    """Predictions for N photos."""

    ids: np.ndarray
    """(N,) int64."""
    truth_deg: np.ndarray
    """(N, 2) float64."""
    latlng_deg: np.ndarray
    """(N, 2) float64, the predicted positions."""
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


class GeolocationEvaluator(SampleEvaluator[Predictions]):
    """Collects predictions of cells, of which the tokens are in class order, and measures them.

    ``centers_deg`` (C, 2) are the positions of the cells, for the constant guesses.
    """

    columns = (
        *("latitude", "longitude", "cell", "probability", "radius_50_km", "radius_90_km"),
        *("true_latitude", "true_longitude", "error_km"),
    )

    def __init__(self, tokens: Sequence[str], centers_deg: np.ndarray, dataset: str) -> None:
        super().__init__(dataset)
        self.tokens = tokens
        self.centers_deg = centers_deg

    def update(
        self, ids: np.ndarray, truth_deg: np.ndarray, places: Places, paths: Sequence[str] = ()
    ) -> None:
        """Add a batch: ids (B,) int64, true positions (B, 2), predictions, and B files."""
        self.add(Predictions(ids, np.asarray(truth_deg, np.float64), *places), paths)

    def compute(self) -> GeolocationResult:
        """Gather, then measure; call it on all processes, which get the same result."""
        return measure(self.gather(), self.centers_deg, self.dataset)

    def rows(self, samples: Predictions) -> Iterator[tuple[str, ...]]:
        """Return position, cell, probability, radii, true position and error of each photo."""
        for (_, truth, place, cell, score, radii), error in zip(
            zip(*samples, strict=True), samples.error_km, strict=True
        ):
            yield (
                *(f"{degrees:.6f}" for degrees in place), self.tokens[int(cell)], f"{score:.6f}",
                *(f"{radius:.3f}" for radius in radii), *(f"{degrees:.6f}" for degrees in truth),
                f"{error:.3f}",
            )  # fmt: skip


def shares_within(error_km: np.ndarray) -> dict[int, float]:
    """Return the share of errors (N,), N at least 1, within each of the five distances."""
    return {distance: float((error_km <= distance).mean()) for distance in WITHIN_KM}


def guesses(
    truth_deg: np.ndarray, centers_deg: np.ndarray
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the shares within each distance of a random cell and of the best constant cell.

    ``truth_deg`` (N, 2) are true positions, ``centers_deg`` (C, 2) those of the cells.
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
    """Measure predictions, at least one."""
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
        dataset=dataset, photos=len(error), within_km=shares_within(error),
        median_km=float(np.median(error)), coverage=by_share(covered),
        median_radius_km=by_share(np.median(predictions.radii_km, axis=0).tolist()),
        per_continent=per_continent, chance=chance, constant=constant,
    )  # fmt: skip


def by_share(values: Sequence[float]) -> dict[str, float]:
    """Return the values of the shares ``HELD`` by per cent: "50" and "90"."""
    return {f"{100 * share:.0f}": value for share, value in zip(HELD, values, strict=True)}


def format_table(result: GeolocationResult) -> str:
    """Format the five distances against guesses, the continents and the radii, as text."""
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
    half = " (each half measured with the levels of the other)" if result.cross_fitted else ""
    levels = " and ".join(f"{level:.3f}" for level in known.levels)
    lines.append(
        f"Calibrated on {known.photos:,} photos of {known.dataset}{half}: "
        f"temperature {known.temperature:.2f}, levels {levels}"
    )
    return lines


def _cells(shares: dict[int, float]) -> str:
    return "".join(f"{shares[distance]:>10.3f}" for distance in WITHIN_KM)
