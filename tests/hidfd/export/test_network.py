"""A student that is handed over takes images in [0, 1] only, here and as ONNX."""

import numpy as np
import pytest
import torch

from hidfd.export import DeployedStudent
from hidfd.networks.build import build_backbone
from hidfd.networks.student import Student
from hidfd.networks.teacher import Teacher

WRONG = {
    "uint8": torch.full((2, 1, 28, 28), 200, dtype=torch.uint8),
    "0 to 255": torch.full((2, 1, 28, 28), 200.0),
    "normalised": torch.full((2, 1, 28, 28), -2.0),
    "nan": torch.full((2, 1, 28, 28), torch.nan),
}


def network_of(head: str, teacher_pixels: int) -> DeployedStudent:
    torch.manual_seed(0)
    teacher_backbone = build_backbone("resnet8", num_classes=5, channels=1, width=4)
    teacher = Teacher(teacher_backbone, (0.3,), (0.2,), teacher_pixels)
    backbone = build_backbone("resnet8", num_classes=5, channels=1, width=4)
    classifier = teacher.backbone.classifier
    return DeployedStudent(Student(backbone, head=head, teacher_classifier=classifier, teacher_map_size=4), teacher)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_images_that_are_not_in_0_to_1_are_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="divide uint8 ones by 255"):
        network_of("own", 28)(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "teacher_pixels"), [("own", 28), ("shared", 20), ("shared", 32)])
def test_onnx_gives_the_same_logits_for_any_batch_and_none_for_wrong_images(head: str, teacher_pixels: int) -> None:
    pytest.importorskip("onnxscript", reason="installed by `make setup`")
    from onnx.reference import ReferenceEvaluator

    network = network_of(head, teacher_pixels)
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(network, (torch.rand(2, 1, 28, 28),), dynamic_shapes=(batch,), dynamo=True)
    assert program is not None
    evaluator = ReferenceEvaluator(program.model_proto)
    (name,) = evaluator.input_names
    for count in (1, 3):
        image_unit = torch.rand(count, 1, 28, 28)
        (logits,) = evaluator.run(None, {name: image_unit.numpy()})
        np.testing.assert_allclose(logits, network(image_unit).numpy(), rtol=1e-4, atol=1e-5)
    for kind in ("0 to 255", "normalised"):
        (logits,) = evaluator.run(None, {name: WRONG[kind].numpy()})
        assert np.isnan(logits).all()
