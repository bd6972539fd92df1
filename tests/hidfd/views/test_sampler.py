import torch

from hidfd.views.sampler import HybridSampler


def drawn(sampler: HybridSampler, images: int, batch: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [sampler.batch(seen, batch) for seen in range(0, images, batch)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def test_each_collected_image_appears_n_times_per_pass_and_each_synthetic_one_once() -> None:
    real, synthetic = drawn(HybridSampler(5, 50, 10.0, seed=1), 100)
    assert torch.bincount(real).tolist() == [10] * 5
    assert torch.bincount(synthetic).tolist() == [1] * 50
    assert HybridSampler(5, 50, 10.0, seed=1).real_share == 0.5


def test_a_fractional_inflation_gives_the_fraction_to_a_choice_of_images() -> None:
    real, _ = drawn(HybridSampler(10, 5, 1.5, seed=0), 20)
    assert sorted(torch.bincount(real).tolist()) == [1] * 5 + [2] * 5


def test_inflation_zero_is_synthetic_only_and_no_synthetic_images_is_real_only() -> None:
    real, synthetic = drawn(HybridSampler(10, 20, 0.0, seed=0), 20)
    assert (len(real), len(synthetic)) == (0, 20)
    real, synthetic = drawn(HybridSampler(10, 0, 7.0, seed=0), 20)
    assert (len(real), len(synthetic)) == (20, 0)


def test_a_batch_depends_on_the_images_seen_alone() -> None:
    whole = HybridSampler(7, 13, 3.0, seed=5)
    resumed = HybridSampler(7, 13, 3.0, seed=5)
    for seen in range(0, 120, 12):
        expected = whole.batch(seen, 12)
        if seen >= 60:
            for a, b in zip(expected, resumed.batch(seen, 12), strict=True):
                assert torch.equal(a, b)


def test_passes_differ_and_seeds_differ() -> None:
    sampler = HybridSampler(0, 50, 1.0, seed=0)
    assert not torch.equal(sampler.batch(0, 50)[1], sampler.batch(50, 50)[1])
    assert not torch.equal(sampler.batch(0, 50)[1], HybridSampler(0, 50, 1.0, seed=1).batch(0, 50)[1])
