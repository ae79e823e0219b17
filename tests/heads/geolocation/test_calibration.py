import numpy as np
import pytest

from mobilevision.datasets.geolocation.cells import Partition, children, face_ids, to_tokens
from mobilevision.datasets.geolocation.coordinates import CellTable
from mobilevision.datasets.geolocation.geodesy import distance_km
from mobilevision.heads.geolocation.decoding import (
    LEAST_PHOTOS,
    Calibration,
    CalibrationPhotos,
    Decoder,
    calibrate,
    conformal_level,
    cross_fitted_coverage,
    fit_temperature,
)


def world(spread_km: float = 500.0) -> Partition:
    """The 96 cells of level 2, as if their photos were spread around their middles."""
    ids = children(children(face_ids()))
    from s2geometry import S2CellId

    middles = [S2CellId(number).ToLatLng() for number in ids.tolist()]
    positions = np.array([(each.lat().degrees(), each.lng().degrees()) for each in middles])
    count = len(ids)
    return Partition(
        CellTable(to_tokens(ids), positions, np.ones(count, int), np.full(count, spread_km))
    )


def guesses(partition: Partition, count: int, too_sure: float, seed: int = 0):
    """Scores of a model that is right as often as it says, times ``too_sure``; true positions."""
    rng = np.random.default_rng(seed)
    scores = 3.0 * rng.normal(size=(count, len(partition)))
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    cells = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)  # drawn from softmax(scores)
    sigma_deg = partition.spread_km[0] / np.sqrt(2) / 111.195
    middle = partition.latlng_deg[cells]
    moved = rng.normal(size=(count, 2)) * sigma_deg
    moved[:, 1] /= np.cos(np.radians(middle[:, 0]))
    truth = middle + moved
    truth[:, 1] = (truth[:, 1] + 180) % 360 - 180
    return (too_sure * scores).astype(np.float32), cells, np.clip(truth, (-90, -180), (90, 180))


def test_temperature__two_cells__by_hand() -> None:
    """Scores say 0.9 to 0.1, right are 3 of 4: the best odds are 3, so T = ln 9 / ln 3 = 2."""
    scores = np.log(np.array([[0.9, 0.1]] * 4))
    assert fit_temperature(scores, np.array([0, 0, 0, 1])) == pytest.approx(2.0, rel=1e-3)


def test_temperature__too_timid__is_below_one() -> None:
    scores = np.log(np.array([[0.75, 0.25]] * 10))
    expected = np.log(3) / np.log(9)
    assert fit_temperature(scores, np.array([0] * 9 + [1])) == pytest.approx(expected, rel=1e-3)


def test_probabilities__at_a_temperature__by_hand_and_of_scores_far_apart() -> None:
    scores = np.log(np.array([[0.9, 0.1], [0.5, 0.5]]))
    found = Calibration(temperature=2.0).probabilities(scores)  # odds of 9 become odds of 3
    np.testing.assert_allclose(found, [[0.75, 0.25], [0.5, 0.5]])
    far = np.array([[0.0, -5000.0]])
    assert Calibration().probabilities(far).tolist() == [[1.0, 0.0]]


def test_temperature__scores_far_apart__is_finite_and_by_hand() -> None:
    """Three cells, of which one is out of the question: else as two cells."""
    scores = np.append(np.log(np.array([[0.9, 0.1]] * 4)), [[-5000.0]] * 4, axis=1)
    assert fit_temperature(scores, np.array([0, 0, 0, 1])) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("too_sure", [0.5, 1.0, 3.0])
def test_temperature__drawn_from_the_probabilities__is_how_much_too_sure(too_sure: float) -> None:
    scores, cells, _ = guesses(world(), 4000, too_sure)
    assert fit_temperature(scores, cells) == pytest.approx(too_sure, rel=0.05)


def test_temperature__photos_in_no_cell__say_nothing() -> None:
    scores = np.log(np.array([[0.9, 0.1]] * 4 + [[0.5, 0.5]]))
    assert fit_temperature(scores, np.array([0, 0, 0, 1, -1])) == pytest.approx(2.0, rel=1e-3)
    assert fit_temperature(scores, np.full(5, -1)) == 1.0


def test_level__by_hand() -> None:
    masses = np.array([0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.4, 0.8, 0.6])
    assert conformal_level(masses, 0.5) == 0.5  # the fifth of nine: ceil(10 * 0.5)
    assert conformal_level(masses, 0.9) == 0.9  # the ninth: ceil(10 * 0.9)
    assert conformal_level(masses[:8], 0.9) == 1.0  # the ninth of eight: everything


def test_level__new_photos__are_held_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    held = [rng.random() ** 0.2 <= conformal_level(rng.random(20) ** 0.2, 0.9)
            for _ in range(4000)]  # fmt: skip
    assert np.mean(held) == pytest.approx(19 / 21, abs=0.015)  # rank 19 of 21


def test_coverage__levels_are_of_the_other_half__by_hand() -> None:
    even, odd = [0.1, 0.2, 0.3], [0.15, 0.9, 0.95]
    masses = np.array([even, odd]).T.ravel()
    # The level for 50 % is the second of three: 0.9 of the odd ones holds all even ones, 0.2 of
    # the even ones holds one odd one.
    assert cross_fitted_coverage(masses, (0.5,)) == (4 / 6,)


@pytest.mark.parametrize("answer", ["cell", "mode"])
def test_calibrate__model_that_is_too_sure__radii_hold_on_other_photos(answer: str) -> None:
    partition = world()
    scores, _, truth = guesses(partition, 600, 3.0)
    found = calibrate(scores, truth, partition, answer, "some photos")
    assert found is not None
    calibration = found.calibration
    assert (calibration.photos, calibration.dataset) == (600, "some photos")
    assert found.coverage == pytest.approx((0.5, 0.9), abs=0.06)
    other, _, other_truth = guesses(partition, 600, 3.0, seed=1)
    before = Decoder(partition, answer)(Calibration().probabilities(other))
    after = Decoder(partition, answer, levels=calibration.levels)(calibration.probabilities(other))
    away = [distance_km(places.latlng_deg, other_truth)[:, None] for places in (before, after)]
    assert (away[0] <= before.radii_km).mean(axis=0)[1] < 0.8
    assert (away[1] <= after.radii_km).mean(axis=0) == pytest.approx((0.5, 0.9), abs=0.06)


def test_masses__not_above_the_level__exactly_where_the_radius_holds() -> None:
    partition = world()
    scores, _, truth = guesses(partition, 200, 1.0)
    probabilities = Calibration().probabilities(scores)
    decoder = Decoder(partition, levels=(0.3, 0.8))
    places = decoder(probabilities)
    inside = distance_km(places.latlng_deg, truth)[:, None] <= places.radii_km
    assert np.array_equal(inside, decoder.masses(probabilities, truth)[:, None] <= (0.3, 0.8))


def test_calibrate__too_few_photos__nothing() -> None:
    partition = world()
    scores, _, truth = guesses(partition, LEAST_PHOTOS - 1, 3.0)
    assert calibrate(scores, truth, partition, "cell", "few") is None


def test_photos__too_many__every_nth_is_kept_once() -> None:
    kept = CalibrationPhotos(10, most=4)
    for ids in ([5, 4, 3, 2], [1, 0, 9, 8], [7, 6, 6, 3]):  # with duplicates at the end
        numbers = np.array(ids)
        kept.update(numbers, np.stack([numbers, -numbers], 1), numbers[:, None] * np.ones((1, 2)))
    truth, scores = kept.gather()
    assert truth[:, 0].tolist() == [0, 3, 6, 9]
    assert scores.tolist() == [[0, 0], [3, 3], [6, 6], [9, 9]]


def test_calibration__as_plain_data_and_back__is_the_same() -> None:
    calibration = Calibration(1.5, (0.4, 0.95), 600, "some photos")
    assert Calibration.from_plain(calibration.to_plain()) == calibration
    assert Calibration.from_plain(None) == Calibration(1.0, (0.5, 0.9))
