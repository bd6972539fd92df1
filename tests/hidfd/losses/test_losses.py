"""The loss terms: their values, and exactly which parameters each one reaches (the gradient table of the method)."""

import math

import pytest
import torch
from torch import Tensor, nn

from hidfd.config.schema import DistillationConfig, SmoothingConfig
from hidfd.losses.adc_gan import adc_d, adc_g, hinge_d, hinge_g
from hidfd.losses.distillation import ce_loss, feature_loss, kl_loss, student_losses
from hidfd.losses.feature_integration import TeacherRegressor, blend_loss_by_class, blend_loss_by_position, trans_loss
from hidfd.losses.frequency_smoothing import FrequencySmoothing
from hidfd.losses.regularisers import LeCam, consistency_loss
from hidfd.networks.build import build_backbone
from hidfd.networks.student import Student, StudentOutput


def test_adc_g_is_the_difference_of_two_cross_entropies() -> None:
    logits, labels = torch.randn(5, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1])
    real = nn.functional.cross_entropy(logits, 2 * labels)
    fake = nn.functional.cross_entropy(logits, 2 * labels + 1)
    torch.testing.assert_close(adc_g(logits, labels), (real - fake).float())


def test_hinge_d_is_zero_only_beyond_the_margins() -> None:
    assert hinge_d(torch.tensor([1.5]), torch.tensor([-1.5])) == 0
    assert hinge_d(torch.tensor([0.0]), torch.tensor([0.0])) == 2
    assert hinge_g(torch.tensor([3.0, 1.0])) == -2


def test_adc_d_puts_real_images_on_even_and_generated_ones_on_odd_indices() -> None:
    sure = torch.full((1, 4), -50.0)
    real, fake = sure.clone(), sure.clone()
    real[0, 2], fake[0, 3] = 50.0, 50.0
    one = torch.tensor([1])
    assert adc_d(real, one, fake, one) < 1e-6
    assert adc_d(fake, one, real, one) > 100


def test_blend_by_position_crosses_real_and_generated_images() -> None:
    t_real, t_fake = torch.zeros(2, 3), torch.ones(2, 3)
    assert blend_loss_by_position(t_real, t_fake, t_fake, t_real) == 0
    torch.testing.assert_close(trans_loss(t_real, t_fake, t_fake, t_real), torch.tensor(2 * math.sqrt(3)))


def test_blend_by_class_leaves_out_images_without_a_partner() -> None:
    t_real = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    r_fake = torch.tensor([[2.0, 0.0], [9.0, 9.0]])
    loss = blend_loss_by_class(
        t_real, torch.zeros(2, 2), torch.tensor([0, 0]), torch.zeros(2, 2), r_fake, torch.tensor([0, 1]), 3
    )
    # Class 0's mean teacher feature (2, 0) meets r of the generated image of class 0; class 1 has no real partner.
    assert loss == 0


@pytest.mark.parametrize("pairing", ["position", "class"])
def test_integration_terms_train_the_trunk_and_both_linears(pairing: str) -> None:
    trunk, regressor = nn.Linear(4, 6), TeacherRegressor(6, 8, 5)
    regressed = regressor(trunk(torch.randn(4, 4)))
    labels = torch.tensor([0, 1])
    target = torch.randn(2, 5, requires_grad=True)
    if pairing == "position":
        loss = blend_loss_by_position(target.detach(), regressed[:2], target.detach(), regressed[2:])
    else:
        loss = blend_loss_by_class(target.detach(), regressed[:2], labels, target.detach(), regressed[2:], labels, 2)
    loss.backward()
    for parameter in [*trunk.parameters(), *regressor.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def smoothing_of(**settings: object) -> FrequencySmoothing:
    return FrequencySmoothing(SmoothingConfig.model_validate({"update_images": 4, **settings}), torch.arange(3))


def one_hot(*classes: int) -> Tensor:
    return 20.0 * nn.functional.one_hot(torch.tensor(classes), 3).float()


def test_smoothing_weights_stay_one_until_the_first_update_and_then_favour_rare_classes() -> None:
    smoothing = smoothing_of()
    smoothing.count(one_hot(0, 0, 0))
    assert smoothing.weights.tolist() == [1, 1, 1]
    smoothing.count(one_hot(1))
    torch.testing.assert_close(smoothing.frequencies, torch.tensor([0.375, 0.125, 0.0]) + 0.5 / 3)
    assert smoothing.weights[2] > smoothing.weights[1] > smoothing.weights[0]
    torch.testing.assert_close(smoothing.weights.sum(), torch.tensor(3.0))
    assert smoothing.pending_images == 0


def test_smoothing_uniform_mode_never_weighs_and_effective_mode_saturates() -> None:
    uniform, effective = smoothing_of(mode="uniform"), smoothing_of(mode="effective")
    for smoothing in (uniform, effective):
        smoothing.count(one_hot(0, 0, 0, 1))
    assert uniform.weights.tolist() == [1, 1, 1]
    torch.testing.assert_close(effective.weights, torch.ones(3), atol=1e-3, rtol=0)  # inert at N_k >> 1/(1-beta)


def test_smoothing_loss_pushes_towards_the_rare_class() -> None:
    smoothing = smoothing_of(momentum=0.0)
    smoothing.count(one_hot(0, 0, 1, 1))
    logits = torch.zeros(6, 3, requires_grad=True)
    smoothing.loss(logits).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 2] < 0).all()  # descent raises the class that was never made
    assert (logits.grad[:, 0] > 0).all()


@pytest.mark.parametrize("counting", ["hard", "soft"])
def test_smoothing_is_over_the_classes_that_can_be_made(counting: str) -> None:
    """Absent classes would take all the weight, and the present ones would be left without any."""
    config = SmoothingConfig.model_validate({"update_images": 4, "momentum": 0.0, "counting": counting})
    present = torch.tensor([1, 2, 4])
    some, whole = FrequencySmoothing(config, present), FrequencySmoothing(config, torch.arange(3))
    logits = torch.tensor([[9.0, 2.0, 1.0, 9.0, 0.0]] * 3 + [[9.0, 0.0, 1.0, 9.0, 0.0]], requires_grad=True)
    some.count(logits.detach())
    whole.count(logits.detach()[:, present])
    torch.testing.assert_close(some.frequencies, whole.frequencies, rtol=0, atol=0)
    torch.testing.assert_close(some.weights, whole.weights, rtol=0, atol=0)
    torch.testing.assert_close(some.weights.sum(), torch.tensor(3.0))
    torch.testing.assert_close(some.frequencies.sum(), torch.tensor(1.0))
    loss = some.loss(logits)
    assert loss == whole.loss(logits[:, present])
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, [0, 3]] == 0).all()


def test_image_that_stands_for_several_counts_as_many_times() -> None:
    smoothing, plain = smoothing_of(update_images=12), smoothing_of()
    smoothing.count(one_hot(0, 1), times=3)
    assert smoothing.weights.tolist() == [1, 1, 1]
    smoothing.count(one_hot(0, 0), times=3)
    plain.count(one_hot(0, 1, 0, 0))
    torch.testing.assert_close(smoothing.frequencies, plain.frequencies, rtol=0, atol=0)
    assert smoothing.pending_images == 0


def test_consistency_is_the_squared_difference_of_the_scores() -> None:
    assert consistency_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, -2.0])) == 8


def test_lecam_holds_each_half_near_the_running_mean_of_the_other() -> None:
    lecam = LeCam()
    real, fake = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([-1.0, -1.0], requires_grad=True)
    lecam.averages.copy_(torch.tensor([2.0, -1.0]))  # those of these scores, so they stay
    loss = lecam.loss(real, fake)
    torch.testing.assert_close(lecam.averages, torch.tensor([2.0, -1.0]))
    torch.testing.assert_close(loss, torch.tensor(((1 + 1) ** 2 + (3 + 1) ** 2) / 2 + 9.0))
    loss.backward()
    torch.testing.assert_close(real.grad, torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(fake.grad, torch.tensor([-3.0, -3.0]))
    restored = LeCam()
    restored.load_state_dict(lecam.state_dict())
    assert torch.equal(restored.averages, lecam.averages)


def test_lecam_averages_move_by_a_hundredth() -> None:
    lecam = LeCam()
    lecam.loss(torch.tensor([2.0]), torch.tensor([-4.0]))
    torch.testing.assert_close(lecam.averages, torch.tensor([0.02, -0.04]))


def test_smoothing_state_is_in_the_state_dict() -> None:
    smoothing, restored = smoothing_of(), smoothing_of()
    smoothing.count(one_hot(0, 0, 0, 1, 2))
    restored.load_state_dict(smoothing.state_dict())
    torch.testing.assert_close(restored.weights, smoothing.weights)
    torch.testing.assert_close(restored.frequencies, smoothing.frequencies)


def test_feature_loss_pools_the_larger_teacher_map() -> None:
    teacher_map = torch.arange(16.0).view(1, 1, 4, 4)
    assert feature_loss(nn.functional.avg_pool2d(teacher_map, 2), teacher_map) == 0


def test_kl_is_zero_for_equal_logits_and_scaled_by_the_squared_temperature() -> None:
    a, b = torch.randn(4, 5), torch.randn(4, 5)
    assert kl_loss(a, a, 4.0).abs() < 1e-6
    p = (b / 4).softmax(1)
    expected = 16 * (p * (p.log() - (a / 4).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(kl_loss(a, b, 4.0), expected)


def test_ce_target_is_the_teachers_argmax() -> None:
    teacher = torch.tensor([[0.0, 9.0, 0.0]])
    assert ce_loss(torch.tensor([[0.0, 30.0, 0.0]]), teacher) < 1e-6


def student(head: str) -> Student:
    return Student(
        build_backbone("resnet8", num_classes=3, channels=1, width=4),
        head=head,
        teacher_classifier=nn.Linear(12, 3),
        teacher_map_size=4,
    )


def test_alignment_trains_trunk_and_projector_and_never_the_shared_classifier() -> None:
    network = student("shared")
    output = network(torch.randn(4, 1, 16, 16))
    losses = student_losses(output, torch.rand(4, 12, 8, 8), torch.randn(4, 3), DistillationConfig())
    losses["total"].backward()
    assert network.projector is not None
    assert network.shared_classifier is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.projector.parameters())
    assert network.backbone.get_parameter("conv1.weight").grad is not None
    assert all(p.grad is None for p in network.shared_classifier.parameters())
    assert all(p.grad is None for p in network.backbone.classifier.parameters())


def test_plain_kd_trains_the_students_own_head() -> None:
    network = student("own")
    config = DistillationConfig(head="own", feature_weight=0.0, kl_weight=1.0)
    output = network(torch.randn(4, 1, 16, 16))
    assert output.projected is None
    student_losses(output, torch.empty(0), torch.randn(4, 3), config)["total"].backward()
    assert network.backbone.classifier.weight.grad is not None


def test_switched_off_terms_do_not_appear() -> None:
    output = StudentOutput(torch.randn(2, 3), torch.rand(2, 4, 2, 2))
    losses = student_losses(output, torch.rand(2, 4, 2, 2), torch.randn(2, 3), DistillationConfig())
    assert set(losses) == {"feature", "total"}
