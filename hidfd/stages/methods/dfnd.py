"""DFND: a student on the collected images alone, whose labels by the teacher are taken as noisy.

**Source**: Chen et al. 2021 (Learning Student Networks in the Wild), reconstructed; see docs/method.md. Its choice of
images is `collection.mode: confident`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hidfd.config.schema import TrialConfig
from hidfd.data.collection import Collection
from hidfd.distributed.device import Device
from hidfd.losses.noisy_labels import NoiseAdaptation
from hidfd.networks.student import StudentOutput
from hidfd.networks.teacher import Teacher, TeacherOutput
from hidfd.stages.context import StageContext
from hidfd.stages.methods.student_training import StudentTraining, train_student
from hidfd.store.store import Artifact


def distil_noisy(
    context: StageContext, collection: Collection, teacher: Teacher, caches: Mapping[str, Path] | None = None
) -> Artifact:
    """Train one student to its budget of images, with the adaptation matrix.

    Args:
        caches: folder for a bank of views, of the artifact that its `real` images come from.

    Returns:
        Artifact with `student.safetensors` and `metrics.jsonl`; its meta has the mean diagonal of the matrix.
    """
    with context.preparing():
        training = DfndTraining(context.config, collection, teacher, context.device, caches)

    def facts() -> dict[str, Any]:
        return training.counts() | {"adaptation_diagonal": training.adaptation.mean_diagonal()}

    return train_student(context, training, collection, facts)


class DfndTraining(StudentTraining):
    """A student on views of the collected images, and the adaptation matrix, which learn together."""

    def __init__(
        self,
        config: TrialConfig,
        collection: Collection,
        teacher: Teacher,
        device: Device,
        caches: Mapping[str, Path] | None = None,
    ) -> None:
        super().__init__(config, collection, None, teacher, device, caches)
        adaptation = NoiseAdaptation(config.data.num_classes, config.dfnd.adaptation_diagonal)
        self.adaptation = adaptation.to(device.torch_device)
        if config.dfnd.noisy_weight > 0:
            self.optimizer.add_param_group({"params": [self.adaptation.logits], "weight_decay": 0.0})

    def losses_of(self, output: StudentOutput, answer: TeacherOutput) -> dict[str, Tensor]:
        """Return the student's losses, with the noisy-label loss among them."""
        losses, weight = super().losses_of(output, answer), self.config.dfnd.noisy_weight
        if weight > 0:
            losses["noisy_labels"] = self.adaptation.loss(output.logits, answer.logits)
            losses["total"] = losses["total"] + weight * losses["noisy_labels"]
        return losses

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"adaptation": self.adaptation.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.adaptation.load_state_dict(state["adaptation"])
