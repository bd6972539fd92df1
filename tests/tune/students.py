"""Untrained students in a store, and images to ask them about."""

import numpy as np
import safetensors.torch
import torch

from hidfd.config.schema import TrialConfig
from hidfd.data.decoding import Decoded
from hidfd.data.image_set import IMAGES, write_images
from hidfd.networks.student import build_student
from hidfd.networks.teacher import Teacher, build_teacher_backbone
from hidfd.pipeline.graph import plan
from hidfd.store.store import Store


def keep_student(store: Store, config: TrialConfig) -> None:
    """Keep the untrained teacher and student of a trial in a store."""
    stages = plan(config)
    torch.manual_seed(config.seeds.distillation)
    teacher = Teacher(build_teacher_backbone(config), (0.3,), (0.3,), 28)
    if store.find("teacher", stages["teacher"].digest) is None:
        with store.writer("teacher", stages["teacher"].digest, {}) as attempt:
            safetensors.torch.save_file(teacher.backbone.state_dict(), attempt.path("weights.safetensors"))
            attempt.commit({"mean": [0.3], "std": [0.3]})
    student = build_student(config, teacher, 7, last_relu=True)
    with store.writer("distillation", stages["distillation"].digest, {}) as attempt:
        safetensors.torch.save_file(student.state_dict(), attempt.path("student.safetensors"))
        attempt.commit({"teacher_map_size": 7, "last_relu": True})


def keep_validation(store: Store, config: TrialConfig, num_images: int = 9) -> None:
    """Keep validation images of noise of a trial in a store."""
    stage, data = plan(config)["validation"], config.data
    shape = (num_images, data.channels, data.image_size_pixels, data.image_size_pixels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = Decoded(pixels, np.arange(num_images, dtype=np.uint64), {})
    with store.writer(stage.name, stage.digest, {}) as attempt:
        write_images(attempt.path(IMAGES), images, np.zeros(num_images, np.int64))
        attempt.commit({"num_images": num_images})
