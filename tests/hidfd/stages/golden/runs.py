"""Tiny runs of every stage, for the numbers in this folder.

Each stage gets inputs of its own, made here, so that a change of one stage leaves the numbers of the others alone.

The runs are in float64. After 20 steps the instruction sets of one processor (SSE4.1, AVX2, AVX-512) differ there by at
most 1e-10 of a number; in float32 a student's KL differed by a factor of two, so no tolerance would tell a changed
constant from another processor.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import Tensor

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.data.collection import Collection
from hidfd.data.decoding import Decoded, pixel_hash
from hidfd.data.image_set import open_images, write_images
from hidfd.distributed.device import resolve_device
from hidfd.networks.generator import generator_of
from hidfd.networks.student import build_student
from hidfd.networks.teacher import Teacher, build_teacher_backbone
from hidfd.pipeline.graph import Stage, plan
from hidfd.pipeline.observer import Observer
from hidfd.stages.collection import collect
from hidfd.stages.context import StageContext
from hidfd.stages.distillation import distil
from hidfd.stages.evaluation import evaluate
from hidfd.stages.generation import train_generator
from hidfd.stages.methods.cmi import learn_from_inversions
from hidfd.stages.methods.dafl import learn_data_free
from hidfd.stages.methods.dfnd import distil_noisy
from hidfd.stages.synthesis import synthesise
from hidfd.stages.teacher import train_teacher
from hidfd.store.store import Artifact, Store
from tests.hidfd.miniature import METHODS

Numbers = dict[str, Any]
"""Names to floats, integers, or lists and dicts of them."""

CONFIG = TrialConfig.model_validate(
    {
        "data": {
            "num_classes": 3,
            "channels": 1,
            "image_size_pixels": 28,
            "candidates": {"sha256": "0" * 64},
            "validation": {"sha256": "1" * 64},
            "test": {"sha256": "2" * 64},
        },
        "teacher": {
            "architecture": "resnet8",
            "width": 4,
            "train": {"images": {"sha256": "3" * 64}, "target_images": 160, "batch_images": 8, "warmup_fraction": 0.2},
        },
        "collection": {"num_images": 30, "holdout_images": 40},
        "generation": {
            "networks": "light",
            "image_size_pixels": 28,
            "width": 4,
            "latent_dim": 8,
            "target_images": 160,
            "batch_images": 8,
            "generator_learning_rate": 1e-3,
            "discriminator_learning_rate": 1e-3,
            "integration": {"hidden_width": 16, "blend_weight": 0.2},
            "smoothing": {"update_images": 40},
            "ema": {"half_life_images": 60, "start_images": 16, "ramp": 0.5},
            "diff_augment": ["color", "translation", "cutout"],
            "flip": True,
            "statistics_batches": 2,
            "proxies_every_images": 80,
        },
        "synthesis": {"num_images": 40},
        "distillation": {
            "architecture": "resnet8",
            "width": 4,
            "inflation": 2.5,
            "kl_weight": 0.5,
            "ce_weight": 0.1,
            "target_images": 160,
            "batch_images": 8,
            "measure_every_images": 80,
        },
        "log_every_images": 40,
    }
)


class World:
    """Inputs made without any stage: noise with a bar per class, a random teacher, and an empty store."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder)
        self.device = resolve_device("cpu", "fp32")
        self.observer = Observer()
        torch.manual_seed(0)
        backbone = build_teacher_backbone(CONFIG)
        self.teacher = self.device.module(Teacher(backbone, [0.3], [0.25], 28))
        images, labels = pictures(0, 330)
        with torch.no_grad():  # else all images are of one class to it
            logits = self.teacher.ask_all(images, self.device).logits
            backbone.classifier.weight.mul_(20.0)
            backbone.classifier.bias.sub_(20.0 * logits.mean(dim=0))
        self.images, self.labels = images, labels
        self.collection = Collection(
            images=images[:30],
            labels=labels[:30],
            holdout=images[30:150],
            reference=torch.arange(120) < 110,
        )

    def context(self, stage: Stage, config: TrialConfig = CONFIG) -> StageContext:
        return StageContext(stage, config, self.store, self.device, self.observer)

    def student_context(self, config: TrialConfig) -> StageContext:
        return self.context(plan(config)["distillation"], config)

    def image_set(self, stage: Stage, images: Tensor, labels: Tensor) -> Artifact:
        """Write an image set into the store, as an import would."""
        pixels = images.numpy()
        hashes = np.asarray([pixel_hash(image.transpose(1, 2, 0)) for image in pixels], dtype=np.uint64)
        with self.store.writer(stage.name, stage.digest, stage.identity) as writer:
            write_images(writer.path("images.parquet"), Decoded(pixels, hashes, {}), labels.numpy())
            return writer.commit({})


def pictures(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Return `count x 1 x 28 x 28` uint8 and their classes."""
    draws = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = draws.integers(0, 100, (count, 1, 28, 28))
    for image, label in zip(pixels, labels, strict=True):
        image[0, label * 9 : label * 9 + 9] += 130
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels)


def teacher_numbers(world: World) -> Numbers:
    stages = plan(CONFIG)
    images = world.image_set(stages["teacher_images"], world.images[:60], world.labels[:60])
    validation = world.image_set(stages["validation"], world.images[60:150], world.labels[60:150])
    made = train_teacher(world.context(stages["teacher"]), images, validation)
    return {"meta": made.meta, "curve": made.metrics(), **size_of(made.path("weights.safetensors"))}


def collection_numbers(world: World) -> Numbers:
    stages = plan(CONFIG)
    images = torch.cat([world.images[:120], world.images[:5]])  # duplicates
    candidates = world.image_set(stages["candidates"], images, torch.zeros(125, dtype=torch.int64))
    test = world.image_set(stages["test"], world.images[100:130], world.labels[100:130])
    numbers = {}
    for mode in ("random", "confident", "confident_per_class"):
        config = with_values(CONFIG, {"collection.mode": mode})
        stage = plan(config)["collection"]
        made = collect(world.context(stage, config), candidates, test, world.teacher)
        table = pq.read_table(made.path("collection.parquet")).to_pydict()
        numbers[mode] = {"meta": made.meta, "candidate": table["candidate"], "loss": sum(table["loss"])}
    return numbers


def generation_numbers(world: World) -> Numbers:
    stage = plan(CONFIG)["generation"]
    made = train_generator(world.context(stage), world.collection, world.teacher)
    return {"meta": made.meta, "curve": made.metrics(), **size_of(made.path("generator.safetensors"))}


def synthesis_numbers(world: World) -> Numbers:
    torch.manual_seed(1)
    generator = generator_of(CONFIG.generation, CONFIG.data)
    for parameter in generator.parameters():
        parameter.data.mul_(5.0)  # fresh weights make images that are all the same grey
    numbers = {}
    for kept in ("none", "agreement"):
        config = with_values(CONFIG, {"synthesis.filter": kept})
        stages = plan(config)
        generation = world.store.find("generation", stages["generation"].digest)
        if generation is None:
            source = stages["generation"]
            with world.store.writer(source.name, source.digest, source.identity) as writer:
                safetensors.torch.save_file(generator.state_dict(), writer.path("generator.safetensors"))
                generation = writer.commit({"present_classes": [0, 2]})
        made = synthesise(world.context(stages["synthesis"], config), generation, world.teacher)
        images = open_images(made)
        numbers[kept] = {
            "meta": made.meta,
            "labels": images.required_labels.tolist(),
            "means": images.pixels.mean(axis=(1, 2, 3)).tolist(),
        }
    return numbers


def distillation_numbers(world: World) -> Numbers:
    numbers = {}
    synthetic = world.images[150:200]
    plain = {"distillation.head": "own", "distillation.feature_weight": 0.0, "distillation.schedule": "cosine"}
    for name, values in (("aligned", {}), ("plain", plain)):
        config = with_values(CONFIG, values)
        stage = plan(config)["distillation"]
        made = distil(world.context(stage, config), world.collection, synthetic, world.teacher)
        numbers[name] = student_numbers(made)
    return numbers


def dafl_numbers(world: World) -> Numbers:
    config = with_values(CONFIG, METHODS["dafl"])
    return student_numbers(learn_data_free(world.student_context(config), world.collection, world.teacher))


def cmi_numbers(world: World) -> Numbers:
    config = with_values(CONFIG, METHODS["cmi"] | {"cmi.round_images": 64})
    return student_numbers(learn_from_inversions(world.student_context(config), world.collection, world.teacher))


def dfnd_numbers(world: World) -> Numbers:
    config = with_values(CONFIG, METHODS["dfnd"])
    return student_numbers(distil_noisy(world.student_context(config), world.collection, world.teacher))


def student_numbers(made: Artifact) -> Numbers:
    return {"meta": made.meta, "curve": made.metrics(), **size_of(made.path("student.safetensors"))}


def evaluated(world: World) -> Artifact:
    """Return the evaluation of a student with random weights."""
    stages = plan(CONFIG)
    torch.manual_seed(2)
    student = world.device.module(build_student(CONFIG, world.teacher, 7, last_relu=True))
    validation = world.image_set(stages["validation"], world.images[150:], world.labels[150:])
    return evaluate(world.context(stages["evaluation"]), student, world.teacher, world.collection, validation)


def evaluation_numbers(world: World) -> Numbers:
    return {"meta": evaluated(world).meta}


STAGES: dict[str, Callable[[World], Numbers]] = {
    "teacher": teacher_numbers,
    "collection": collection_numbers,
    "generation": generation_numbers,
    "synthesis": synthesis_numbers,
    "distillation": distillation_numbers,
    "evaluation": evaluation_numbers,
    "dafl": dafl_numbers,
    "cmi": cmi_numbers,
    "dfnd": dfnd_numbers,
}


def size_of(weights: Path) -> Numbers:
    """Return two sums over all weights."""
    tensors = [tensor.double() for tensor in safetensors.torch.load_file(weights).values()]
    return {
        "weights_sum": sum(tensor.sum().item() for tensor in tensors),
        "weights_square_sum": sum(tensor.square().sum().item() for tensor in tensors),
    }


@contextmanager
def double_precision() -> Iterator[None]:
    """Make new tensors float64 for the length of a block, and also those that the code casts by `.float()`."""
    default, to_float = torch.get_default_dtype(), Tensor.float

    def to_double(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return to_float(tensor) if tensor.dtype == torch.bool else tensor.double()  # flags: fused steps want float32

    torch.set_default_dtype(torch.float64)
    Tensor.float = to_double  # type: ignore[method-assign, assignment]  # put back below
    try:
        yield
    finally:
        Tensor.float = to_float  # type: ignore[method-assign]  # as it was
        torch.set_default_dtype(default)


def compute(stage: str) -> Numbers:
    """Return the numbers of a stage as the code computes them now."""
    with tempfile.TemporaryDirectory() as folder, double_precision():
        numbers = STAGES[stage](World(Path(folder)))
    timeless: Numbers = _without(numbers, {"seconds", "unix_time", "operations", "validation_digest"})
    return timeless


def _without(numbers: Any, names: set[str]) -> Any:
    if isinstance(numbers, dict):
        return {name: _without(value, names) for name, value in numbers.items() if name not in names}
    return [_without(value, names) for value in numbers] if isinstance(numbers, list) else numbers
