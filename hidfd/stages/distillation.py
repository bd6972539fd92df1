"""Student distillation on the hybrid set: feature alignment under the teacher's classifier, or plain KD.

**Source**: paper Eqs. 13-14; see `hidfd.stages.methods.student_training` for the step, which other methods share.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hidfd.data.collection import Collection
from hidfd.networks.teacher import Teacher
from hidfd.stages.context import StageContext
from hidfd.stages.methods.student_training import StudentTraining, train_student
from hidfd.store.store import Artifact


def distil(
    context: StageContext,
    collection: Collection,
    synthetic: Tensor | None,
    teacher: Teacher,
    caches: Mapping[str, Path] | None = None,
) -> Artifact:
    """Train one student to its budget of images.

    Args:
        synthetic, caches: as of `StudentTraining`.

    Returns:
        Artifact with `student.safetensors` and `metrics.jsonl`.
    """
    with context.preparing():
        training = StudentTraining(context.config, collection, synthetic, teacher, context.device, caches)
    return train_student(context, training, collection, training.counts)
