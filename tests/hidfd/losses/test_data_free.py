"""Losses of images that are made from a teacher alone, and of noisy labels: their values, and where gradients end."""

import math

import pytest
import torch
from torch import nn

from hidfd.losses.data_free import (
    activation_loss,
    adversarial_loss,
    class_loss,
    contrastive_loss,
    entropy_loss,
    one_hot_loss,
    statistics_loss,
)
from hidfd.losses.distillation import kl_loss
from hidfd.losses.noisy_labels import NoiseAdaptation


def test_one_hot_loss_is_lower_for_a_surer_teacher_whatever_the_class() -> None:
    assert one_hot_loss(torch.zeros(4, 3)).item() == pytest.approx(math.log(3))
    assert one_hot_loss(30.0 * torch.eye(3)) < 1e-6


def test_activation_loss_is_minus_the_mean_size_of_the_features() -> None:
    assert activation_loss(torch.tensor([[1.0, -3.0], [0.0, 4.0]])) == -2.0


def test_entropy_loss_is_lowest_where_a_batch_fills_all_classes_evenly() -> None:
    assert entropy_loss(30.0 * torch.eye(3)).item() == pytest.approx(-math.log(3), abs=1e-5)
    assert entropy_loss(torch.zeros(5, 3)).item() == pytest.approx(-math.log(3), abs=1e-5)  # unsure of every image
    assert entropy_loss(30.0 * torch.eye(3)[[0, 0, 0]]).item() == pytest.approx(0.0, abs=1e-5)


def test_entropy_loss_is_finite_where_a_class_has_no_share_at_all() -> None:
    logits = torch.tensor([[500.0, 0.0, -500.0]], requires_grad=True)
    entropy_loss(logits).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_statistics_loss_is_zero_for_images_with_the_teachers_own_statistics() -> None:
    features = torch.randn(6, 3, 4, 4)
    mean, variance = features.mean(dim=(0, 2, 3)), features.var(dim=(0, 2, 3), correction=0)
    assert statistics_loss([(features, mean, variance)] * 2) < 1e-5
    shifted = statistics_loss([(features, mean + torch.tensor([3.0, 4.0, 0.0]), variance), (features, mean, variance)])
    assert shifted.item() == pytest.approx(5.0, abs=1e-4)
    assert statistics_loss([(features, mean, variance + 2.0)]).item() == pytest.approx(2 * math.sqrt(3), abs=1e-4)


def test_class_loss_is_of_the_class_that_was_asked_for() -> None:
    logits = 30.0 * torch.eye(3)
    assert class_loss(logits, torch.tensor([0, 1, 2])) < 1e-6
    assert class_loss(logits, torch.tensor([1, 2, 0])).item() == pytest.approx(30.0, abs=1e-4)


def test_adversarial_loss_counts_only_images_on_which_both_name_one_class() -> None:
    teacher = torch.tensor([[4.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    same, other = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([5.0, 0.0, 0.0])
    loss = adversarial_loss(torch.stack([same, other]), teacher)
    torch.testing.assert_close(loss, -kl_loss(same[None], teacher[:1], 1.0) / 2)
    assert adversarial_loss(teacher, teacher).abs() < 1e-6


def test_contrastive_loss_finds_the_other_view_among_all_and_adds_the_means_of_new_images_and_bank() -> None:
    views = torch.eye(4)
    assert contrastive_loss(views, views, 0.05, num_new=4) < 1e-6
    one = math.log(1 + 3 * math.exp(-1))  # a view's product with its partner is 1, with others 0
    assert contrastive_loss(views, views, 1.0, num_new=4).item() == pytest.approx(one)
    assert contrastive_loss(views, views, 1.0, num_new=1).item() == pytest.approx(2 * one)


def test_no_gradient_of_the_contrastive_loss_reaches_the_global_views() -> None:
    local, whole = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    contrastive_loss(local, whole, 0.1, num_new=2).backward()
    assert local.grad is not None
    assert local.grad.abs().sum() > 0
    assert whole.grad is None


@pytest.mark.parametrize("diagonal", [0.5, 0.9])
def test_adaptation_matrix_begins_with_its_diagonal_and_rows_that_sum_to_one(diagonal: float) -> None:
    adaptation = NoiseAdaptation(4, diagonal)
    matrix = torch.softmax(adaptation.logits, dim=1)
    torch.testing.assert_close(matrix.diagonal(), torch.full((4,), diagonal))
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(4))
    assert adaptation.mean_diagonal() == pytest.approx(diagonal)


def test_noisy_label_loss_is_the_cross_entropy_of_the_prediction_behind_the_matrix() -> None:
    adaptation, student, teacher = NoiseAdaptation(3, 0.8), torch.randn(5, 3), torch.randn(5, 3)
    labels = teacher.argmax(dim=1)
    matrix = torch.softmax(adaptation.logits, dim=1)
    seen = torch.softmax(student, dim=1) @ matrix
    torch.testing.assert_close(adaptation.loss(student, teacher), -torch.log(seen.gather(1, labels[:, None])).mean())


def test_a_matrix_without_noise_leaves_the_plain_cross_entropy() -> None:
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    plain = nn.functional.cross_entropy(student, teacher.argmax(dim=1))
    torch.testing.assert_close(NoiseAdaptation(3, 0.9999999).loss(student, teacher), plain, atol=1e-4, rtol=0)


def test_noisy_label_loss_reaches_student_and_matrix_and_is_finite_for_a_very_sure_student() -> None:
    adaptation, student = NoiseAdaptation(3, 0.9), torch.tensor([[500.0, 0.0, 0.0]], requires_grad=True)
    adaptation.loss(student, torch.tensor([[0.0, 1.0, 0.0]])).backward()
    assert student.grad is not None
    assert adaptation.logits.grad is not None
    assert student.grad.isfinite().all()
    assert adaptation.logits.grad.abs().sum() > 0
