import numpy as np
import pytest
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import DistributedSampler

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.sampling import EpochSampler, PeopleSampler, Progress, SampleKey


def positions(sampler: EpochSampler) -> list[int]:
    return [key.position for key in sampler]


def test_epoch_sampler__same_seed_and_epoch__same_order() -> None:
    first = positions(EpochSampler(50, seed=3, progress=lambda: Progress(7)))
    assert first == positions(EpochSampler(50, seed=3, progress=lambda: Progress(7)))
    assert sorted(first) == list(range(50))
    assert first != positions(EpochSampler(50, seed=3, progress=lambda: Progress(8)))
    assert first != positions(EpochSampler(50, seed=4, progress=lambda: Progress(7)))


def test_epoch_sampler__progress_function__asked_at_each_iteration() -> None:
    now = 0
    sampler = EpochSampler(5, progress=lambda: Progress(now))
    assert {key.epoch for key in sampler} == {0}
    now = 4
    assert {key.epoch for key in sampler} == {4}


def test_epoch_sampler__without_function__goes_by_set_epoch() -> None:
    sampler = EpochSampler(5)
    sampler.set_epoch(2)
    assert next(iter(sampler)).epoch == 2


def test_epoch_sampler__no_shuffle__order_of_the_data_set() -> None:
    sampler = EpochSampler(4, shuffle=False)
    assert list(sampler) == [SampleKey(position, 0) for position in range(4)]


def test_epoch_sampler__in_the_middle_of_an_epoch__yields_the_rest() -> None:
    whole = positions(EpochSampler(10, seed=1))
    resumed = EpochSampler(10, seed=1, progress=lambda: Progress(0, taken=4))
    assert len(resumed) == 10
    assert positions(resumed) == whole[4:]


def test_epoch_sampler__two_processes__share_the_single_order() -> None:
    alone = positions(EpochSampler(11, seed=5))
    ranks = [EpochSampler(11, seed=5, rank=rank, world_size=2) for rank in range(2)]
    shares = [positions(sampler) for sampler in ranks]
    assert shares[0] == alone[0::2]
    assert shares[1] == [*alone[1::2], alone[0]]
    assert [len(sampler) for sampler in ranks] == [6, 6]
    resumed = EpochSampler(11, seed=5, progress=lambda: Progress(0, taken=2), rank=1, world_size=2)
    assert positions(resumed) == shares[1][2:]


def test_epoch_sampler__fewer_samples_than_processes__each_gets_one() -> None:
    shares = [positions(EpochSampler(2, rank=rank, world_size=5)) for rank in range(5)]
    assert [len(share) for share in shares] == [1] * 5
    assert {share[0] for share in shares} == {0, 1}


def test_epoch_sampler__lightning__leaves_it_as_it_is() -> None:
    # What lightning's data connector asks before it wraps a sampler of its own around.
    assert isinstance(EpochSampler(3), DistributedSampler)


def test_epoch_sampler__wrapped_by_hand__keys_pass_through() -> None:
    sampler = EpochSampler(8, seed=2, rank=0, world_size=1)
    shares = [
        list(DistributedSamplerWrapper(sampler, num_replicas=2, rank=rank, shuffle=False))
        for rank in range(2)
    ]
    keys = list(EpochSampler(8, seed=2))
    assert shares == [keys[0::2], keys[1::2]]


# 12 people with 7 faces each, two with 3, and 5 faces of nobody known, in no order.
IDENTITIES = np.random.default_rng(0).permutation(
    np.concatenate([np.repeat(np.arange(12), 7), np.repeat([12, 13], 3), np.full(5, -1)])
)


def people_batches(**options: object) -> np.ndarray:
    sampler = PeopleSampler(IDENTITIES, people=5, faces=3, **options)  # type: ignore[arg-type]
    keys = positions(sampler)
    assert len(keys) == len(sampler)
    return np.array(keys).reshape(-1, 15)


def test_people_sampler__batches_of_p_people_with_k_faces() -> None:
    batches = people_batches()
    # A first round of 14 people, a second of 12: two batches each.
    assert batches.shape == (4, 15)
    assert len(set(batches.ravel().tolist())) == batches.size, "a face comes once in an epoch"
    for batch in batches:
        people, counts = np.unique(IDENTITIES[batch], return_counts=True)
        assert counts.tolist() == [3] * 5
        assert people.min() >= 0


def test_people_sampler__depends_on_seed_and_epoch_and_reaches_all() -> None:
    assert np.array_equal(people_batches(), people_batches())
    assert not np.array_equal(people_batches(), people_batches(seed=1))
    epochs = [people_batches(progress=lambda epoch=epoch: Progress(epoch)) for epoch in range(30)]
    assert not np.array_equal(epochs[0], epochs[1])
    assert set(np.concatenate(epochs).ravel()) == set(np.flatnonzero(IDENTITIES >= 0))


def test_people_sampler__in_the_middle_of_an_epoch__yields_the_rest() -> None:
    sampler = PeopleSampler(IDENTITIES, 5, 3, progress=lambda: Progress(0, taken=30))
    assert np.array_equal(np.array(positions(sampler)).reshape(-1, 15), people_batches()[2:])


def test_people_sampler__three_processes__share_the_single_order_batch_by_batch() -> None:
    alone = people_batches()
    first, second, third = (people_batches(rank=rank, world_size=3) for rank in range(3))
    assert np.array_equal(first, alone[[0, 3]])
    assert np.array_equal(second, alone[[1, 0]])
    assert np.array_equal(third, alone[[2, 1]])


def test_people_sampler__people_with_fewer_faces__left_out_and_counted() -> None:
    sampler = PeopleSampler(IDENTITIES, people=4, faces=4)
    assert sampler.left_out == (2, 2 * 3 + 5)
    assert IDENTITIES[positions(sampler)].max() < 12


def test_people_sampler__too_few_people() -> None:
    with pytest.raises(DataError, match="12 people have 4 faces or more, and a batch needs 13"):
        PeopleSampler(IDENTITIES, people=13, faces=4)
    with pytest.raises(DataError, match="0 people have 4 faces or more"):
        PeopleSampler(np.full(5, -1), people=2, faces=4)
