import csv
import json

import numpy as np
import pytest

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.geolocation.geodesy import to_latlng_deg
from mobilevision.heads.geolocation.continents import CONTINENTS, continent_of
from mobilevision.heads.geolocation.decoding import Places
from mobilevision.heads.geolocation.metrics import (
    GeolocationEvaluator,
    format_table,
    guesses,
    shares_within,
)

DEGREE_KM = 111.195
CITIES = {
    "Europe": [(51.5, -0.1), (64.1, -21.9), (36.14, -5.35), (41.0, 28.95), (55.75, 37.6),
               (35.34, 25.13), (35.9, 14.5), (43.6, 39.73), (36.4, 28.2), (78.2, 15.6),
               (37.7, -25.7), (56.8, 53.2)],
    "Asia": [(41.02, 29.1), (35.2, 33.4), (31.78, 35.2), (41.7, 44.8), (56.84, 60.6), (12.8, 45),
             (35.7, 139.7), (-6.2, 106.8), (66.16, -169.8), (64.73, 177.5), (4.2, 73.5),
             (38.42, 27.14), (29.5, 34.95), (-8.55, 125.6), (53.0, 158.65)],
    "Africa": [(30.04, 31.2), (36.8, 10.18), (28.1, -15.4), (-33.9, 18.4), (11.6, 43.15),
               (-20.2, 57.5), (14.9, -23.5), (-7.9, -14.4)],
    "North America": [(40.7, -74), (8.98, -79.5), (64.2, -51.7), (52.9, 173.2), (23.1, -82.4),
                      (13.1, -59.6), (63.77, -171.7), (70.5, -22)],
    "South America": [(4.7, -74.1), (-0.75, -90.3), (12.1, -68.9), (-54.8, -68.3),
                      (-3.85, -32.4), (10.66, -61.5), (-51.7, -57.85)],
    "Oceania": [(-33.9, 151.2), (-12.46, 130.84), (21.3, -157.9), (13.45, 144.8), (-17.5, -149.6),
                (7.5, 134.6), (-27.1, -109.4), (-2.53, 140.7), (-10.5, 105.6)],
    "Antarctica": [(-77.85, 166.67), (-90, 0), (-62.2, -58.9)],
}  # fmt: skip


@pytest.mark.parametrize("name", CITIES)
def test_continent__of_places_near_its_borders(name: str) -> None:
    found = [CONTINENTS[index] for index in continent_of(np.array(CITIES[name], float))]
    assert found == [name] * len(found)


def test_continent__everywhere__there_is_one() -> None:
    everywhere = to_latlng_deg(np.random.default_rng(0).normal(size=(20000, 3)))
    edges = np.array([(y, x) for y in range(-90, 91, 5) for x in (-180.0, -169, 66, 180)], float)
    found = continent_of(np.concatenate([everywhere, edges]))
    assert found.min() >= 0
    assert set(found.tolist()) == set(range(len(CONTINENTS)))


def evaluator(errors_deg: list[float], radius_km: tuple[float, float]) -> GeolocationEvaluator:
    """Photos on the equator in Africa, answered so many degrees too far east."""
    count = len(errors_deg)
    collected = GeolocationEvaluator(["a", "b"], np.array([(0.0, 20.0), (80.0, 0.0)]), "some")
    answers = np.stack([np.zeros(count), 20 + np.array(errors_deg)], axis=1)
    collected.update(
        np.arange(count),
        np.tile((0.0, 20.0), (count, 1)),
        Places(answers, np.zeros(count, int), np.ones(count), np.tile(radius_km, (count, 1))),
        [f"{number}.jpg" for number in range(count)],
    )
    return collected


def test_measure__by_hand() -> None:
    km = np.array([0.5, 20, 150, 700, 2000, 9000])
    result = evaluator((km / DEGREE_KM).tolist(), (100.0, 1000.0)).compute()
    assert [result.within_km[each] for each in (1, 25, 200, 750, 2500)] == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]
    )
    assert result.median_km == pytest.approx(425, abs=0.1)
    assert result.coverage == pytest.approx({"50": 2 / 6, "90": 4 / 6})
    assert result.per_continent.keys() == {"Africa"}
    assert result.per_continent["Africa"]["photos"] == 6
    assert result.chance == dict.fromkeys((1, 25, 200, 750, 2500), 0.5)
    assert result.constant == dict.fromkeys((1, 25, 200, 750, 2500), 1.0)


def test_measure__two_continents_and_unequal_radii__medians_by_hand() -> None:
    truth = np.array([(0.0, 20.0)] * 3 + [(-25.0, 135.0)] * 3)
    answers = truth.copy()
    answers[1:, 0] += [1, 10, 2, 3, 40]
    radii = np.array([(0.0, 0.0), (1.0, 8.0), (2.0, 9.0), (10.0, 300.0), (20.0, 400.0), (90, 9e9)])
    collected = GeolocationEvaluator(["a"], truth[:1], "some")
    places = Places(answers, np.zeros(6, int), np.ones(6), radii)
    collected.update(np.arange(6), truth, places)
    result = collected.compute()
    assert result.median_radius_km == {"50": 6.0, "90": 154.5}
    # An error of exactly the radius is held: the first photo, where both are nothing.
    assert result.coverage == pytest.approx({"50": 1 / 6, "90": 4 / 6})
    africa, oceania = result.per_continent["Africa"], result.per_continent["Oceania"]
    assert (africa["photos"], oceania["photos"]) == (3, 3)
    assert africa["median_km"] == pytest.approx(DEGREE_KM, rel=1e-4)
    assert oceania["median_km"] == pytest.approx(3 * DEGREE_KM, rel=1e-4)
    assert africa["within_km"][200] == pytest.approx(2 / 3)
    assert oceania["within_km"][200] == 0.0
    assert not result.cross_fitted


def test_shares__exactly_the_distance__counts() -> None:
    assert shares_within(np.array([25.0, 25.0001]))[25] == 0.5


def test_guesses__as_trying_every_cell() -> None:
    rng = np.random.default_rng(3)
    truth = np.stack([rng.uniform(-60, 60, 300), rng.uniform(-180, 180, 300)], axis=1)
    from mobilevision.datasets.geolocation.geodesy import distance_km

    every = np.array(
        [list(shares_within(distance_km(truth, each)).values()) for each in truth[:40]]
    )
    chance, constant = guesses(truth, truth[:40])
    assert list(chance.values()) == pytest.approx(every.mean(axis=0))
    assert list(constant.values()) == pytest.approx(every.max(axis=0))


def test_evaluator__a_photo_twice__counts_once() -> None:
    collected = evaluator([0.0, 50.0], (1.0, 1.0))
    collected.update(
        np.array([1]),
        np.array([(0.0, 20.0)]),
        Places(np.array([(0.0, 70.0)]), np.zeros(1, int), np.ones(1), np.ones((1, 2))),
    )
    assert collected.compute().photos == 2


def test_evaluator__nothing__says_so() -> None:
    with pytest.raises(DataError, match="no images were evaluated"):
        GeolocationEvaluator(["a"], np.zeros((1, 2)), "some").compute()


def test_files__json_and_csv__hold_what_was_measured() -> None:
    collected = evaluator([0.0, 10.0], (5.0, 50.0))
    result = collected.compute()
    content = json.loads(result.to_json())
    assert content["within_km"] == {"1": 0.5, "25": 0.5, "200": 0.5, "750": 0.5, "2500": 1.0}
    assert content["photos"] == 2
    assert content["median_km"] == pytest.approx(555.97, abs=0.1)
    rows = list(csv.DictReader(collected.to_csv().splitlines()))
    assert [row["file"] for row in rows] == ["0.jpg", "1.jpg"]
    assert (float(rows[1]["longitude"]), float(rows[1]["true_longitude"])) == (30.0, 20.0)
    assert float(rows[1]["error_km"]) == pytest.approx(1111.95, abs=0.1)
    table = format_table(result)
    assert "best constant" in table
    assert "Africa" in table
