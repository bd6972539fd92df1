"""What a run measures: the full size for a GPU, and a tiny one that tries every line on any machine. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """The size of a run.

    Attributes:
        preset: whose networks are measured, `paper` or `quick`.
        batches: images of a step.
        precisions: in which steps are measured on a GPU; a CPU measures the first of them in fp32.
        compiled: kind and images of each compiled step.
        processes: numbers of processes that train side by side.
        compiler: backend of `torch.compile`.
        row_seconds: of measuring, for each rate.
        teachers: names of networks, the largest first; a student is the network after its teacher.
        teacher_epochs: passes over the labelled images that a teacher must be able to take in its time.
        teacher_batch, gan_batch, student_batch: images of the recipe's steps.
        collected, holdout, synthetic, validation: numbers of the recipe's images, at most.
        students: names of the recipe's students.
        points: rows of a curve.
        recipe_images: images that each network of the recipe sees; None = as many as its time allows.
    """

    preset: str
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    compiled: tuple[tuple[str, int], ...]
    processes: tuple[int, ...]
    compiler: str
    row_seconds: float
    teachers: tuple[str, ...]
    teacher_epochs: int
    teacher_batch: int
    gan_batch: int
    student_batch: int
    collected: int
    holdout: int
    synthetic: int
    validation: int
    students: tuple[str, ...] = ("hybrid", "real-only", "synthetic-only")
    points: int = 8
    recipe_images: int | None = None


FULL = Size(
    preset="paper",
    batches=(64, 100, 256, 512),
    precisions=("bf16", "fp32"),
    compiled=(
        ("KD step", 64),
        ("GAN step", 100),
        ("teacher forward", 512),
        ("KD step", 512),
    ),
    compiler="inductor",
    processes=(1, 2, 4, 8),
    row_seconds=0.5,
    teachers=("resnet34-32px", "resnet18-32px", "wrn-40-2", "wrn-16-2", "resnet20", "resnet8"),
    teacher_epochs=20,
    teacher_batch=128,
    gan_batch=100,
    student_batch=64,
    collected=5_000,
    holdout=1_000,
    synthetic=50_000,
    validation=2_000,
)

TINY = Size(
    preset="quick",
    batches=(4, 8),
    precisions=("bf16", "fp32"),
    compiled=(("KD step", 4),),
    compiler="aot_eager",  # needs no C++ compiler and takes a second
    processes=(1, 2),
    row_seconds=0.02,
    teachers=("resnet14", "resnet8"),
    teacher_epochs=1,
    teacher_batch=16,
    gan_batch=8,
    student_batch=8,
    collected=60,
    holdout=60,
    synthetic=40,
    validation=200,
    students=("hybrid", "real-only"),
    points=2,
    recipe_images=48,
)


@dataclass(frozen=True)
class Options:
    """What every part of a run knows; plain values, so that they can be sent to its process.

    Attributes:
        device: `cuda` or `cpu`.
        tiny: whether the size is `TINY`.
        data: folder with the images of the recipe.
        record: path of the record, without a suffix.
        ends_at: end of the run, in seconds since 1970.
        seconds: this part's share of the run.
    """

    device: str
    tiny: bool
    data: str
    record: str
    ends_at: float
    seconds: float

    @property
    def size(self) -> Size:
        return TINY if self.tiny else FULL

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that the device has, the one of the recipe first."""
        return self.size.precisions if self.device == "cuda" else ("fp32",)
