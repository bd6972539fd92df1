"""The benchmark calls the code that trains and counts its operations correctly."""

import pytest
import torch

from benchmarks import steps
from hidfd.distributed.device import resolve_device


def test_measured_steps_are_those_of_the_quickstart_with_plausible_operations() -> None:
    rows = list(steps.measure("quick", resolve_device("cpu", "fp32"), seconds=0.01))
    assert [row.step.split(" (")[0] for row in rows] == ["teacher forward", "GAN step", "KD step"]
    teacher, gan, student = rows
    assert 0.036e9 < teacher.flops_per_image < 0.044e9  # ResNet-14 at 28 px
    assert student.flops_per_image > teacher.flops_per_image
    assert gan.flops_per_image > 3 * teacher.flops_per_image
    assert all(row.images_per_second > 0 for row in rows)


def test_counted_operations_of_a_matrix_multiply_are_exact() -> None:
    left = torch.randn(8, 16)
    flops, rate = steps.count_and_time(lambda _: left @ left.T, 4, 0.001, resolve_device("cpu", "fp32"))
    assert flops == 2 * 8 * 16 * 8 / 4
    assert rate > 0


def test_missing_gpu_is_one_message_and_the_documented_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert steps.main(["--device", "cuda"]) == 5
    assert "no CUDA device" in capsys.readouterr().err
