from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import DistributedSampler

from mobilevision.datasets.sampling import EpochSampler, Progress, SampleKey


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
