"""The `trial:` section of a study file: every setting of one HiDFD trial, with its default, range and meaning.

A default is the paper's value (from the paper, its supplement or the authors' release, see docs/method.md) if there is
one. `preset: quick` has values for two CPU cores, see `hidfd.config.presets`. Torch-free, so that a plan, a digest or
an editor's schema does not load torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from hidfd.config.architectures import ARCHITECTURES, OUTSIDE_FORMS, OWN, is_outside
from hidfd.config.methods import CmiConfig, DaflConfig, DfndConfig, Method
from hidfd.config.section import (
    ABSENT_IF_DEFAULT,
    OUTCOME_NEUTRAL,
    ClassName,
    Fraction,
    Images,
    LearningRate,
    Section,
    Seed,
    Weight,
)
from hidfd.errors import ConfigError
from hidfd.formatting import meant_or_known, plural


class Material(Section):
    """Images or a checkpoint of the user: a folder or a file, identified by its content."""

    path: str | None = Field(default=None, json_schema_extra=OUTCOME_NEUTRAL)
    """Path: a folder of images (nested), a CSV that lists them, a Parquet file, a folder or pattern of Parquet shards,
    or a checkpoint. Relative to the study file, or `s3://BUCKET/PREFIX`; may hold `${NAME}` of an environment
    variable."""

    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Content hash, printed by `python -m hidfd import FILE`. With it, files are read only if the store lacks them."""

    label_order: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, json_schema_extra=ABSENT_IF_DEFAULT
    )
    """Of labelled images: the class of label 0, of label 1, ... (of class folders in alphabetical order). Found by name
    where the labels have names (`data.class_names`); none = each label is the number of its class."""

    @model_validator(mode="after")
    def _named_somehow(self) -> Self:
        if self.path is None and self.sha256 is None:
            raise ValueError("give a path, a sha256, or both")
        return self

    @model_serializer(mode="wrap")
    def _without_unset_order(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        if values.get("label_order") is None:
            values.pop("label_order", None)  # what was written before there was an order reads the same
        return values


class DataConfig(Section):
    """The images of the trial. Only `candidates` is needed; labelled splits are for measurements, never for choices."""

    num_classes: int = Field(default=10, ge=2, le=100_000)
    """K, the number of classes of the teacher."""

    class_names: tuple[ClassName, ...] | dict[ClassName, ClassName] = Field(
        default=(), json_schema_extra=OUTCOME_NEUTRAL
    )
    """Names of the classes, in the teacher's order, for reports and to map labels by name; or with other names for
    reports, `{n01440764: tench, ...}`. Empty = the names that labelled images give them, else numbers."""

    channels: Literal[1, 3] = 3
    """Colour channels: 1 = grey, 3 = RGB. Images are converted at import."""

    image_size_pixels: int = Field(default=32, ge=8, le=512)
    """Side of the stored square images, which teacher and student see in this size."""

    fit: Literal["crop", "pad"] = "crop"
    """Fitting of images of other sizes: `crop`: shorter side resized, then centre crop; `pad`: centred on black."""

    candidates: Material
    """The pool from which images are collected, unlabelled: labels in it are never read."""

    candidates_in_domain: bool = Field(default=False, json_schema_extra=OUTCOME_NEUTRAL)
    """Whether the pool holds other images of the teacher's own data set; only stated in reports."""

    validation: Material | None = None
    """Labelled images for the report, and for a study with `objective: validation_accuracy`."""

    test: Material | None = None
    """Labelled images whose labels are read once, by `python -m hidfd evaluate --test` or a study's test evaluation."""

    synthetic: Material | None = None
    """Synthetic images of your own, such as a diffusion model's, instead of generation and synthesis."""

    image_column: str | None = Field(default=None, json_schema_extra=ABSENT_IF_DEFAULT)
    """Column of Parquet with the encoded images; none = `image`, `img`, or the only one of encoded images."""

    label_column: str | None = Field(default=None, json_schema_extra=ABSENT_IF_DEFAULT)
    """Column of labelled Parquet with the labels; none = `label`, `labels` or `fine_label`."""

    max_broken_fraction: Fraction = 0.01
    """Largest share of unreadable files with which import goes on; it skips and lists them. Not checked again if the
    images are in the store already."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes' names in labelled images, in the teacher's order; empty = unknown."""
        return tuple(self.class_names)

    @property
    def readable_names(self) -> tuple[str, ...]:
        """The classes' names in reports; empty = numbers."""
        return tuple(self.class_names.values() if isinstance(self.class_names, dict) else self.class_names)


class TeacherTrainingConfig(Section):
    """Training of a teacher (`python -m hidfd run FILE --until teacher`): SGD, Nesterov momentum, warm-up, cosine."""

    images: Material
    """Labelled training images."""

    target_images: Images = 10_000_000
    """Budget, in images seen (200 epochs of 50,000)."""

    batch_images: Images = 128
    learning_rate: LearningRate = 0.1
    momentum: Fraction = 0.9
    weight_decay: Weight = 5e-4
    warmup_fraction: Fraction = 0.05
    """Share of the budget in which the learning rate rises linearly; a cosine to zero follows."""

    crop_padding_pixels: int = Field(default=4, ge=0, le=64)
    """Zero padding on every side before a random crop."""

    flip: bool = True


class TeacherConfig(Section):
    """The large network: exactly one of `checkpoint` (the user's own) and `train` (trained by this command)."""

    architecture: str = "resnet34-32px"
    """Name in `hidfd.config.architectures`; `-32px` networks have the 3x3 stem of the CIFAR literature. Or a network
    from elsewhere: `torchvision:NAME`, `timm:NAME`, or `FILE.py:FUNCTION`, which is called with `num_classes` and
    `channels` and returns a network of your own."""

    width: int | None = Field(default=None, ge=1, le=4096)
    """Channels of the first stage, for families with a width setting; default: the published width."""

    code: Material | None = Field(default=None, json_schema_extra=ABSENT_IF_DEFAULT)
    """The file of a network of your own, which `architecture: FILE.py:FUNCTION` names already."""

    checkpoint: Material | None = None
    """State dict of the teacher: .safetensors, or .pt/.pth (read with weights_only)."""

    weights: Annotated[str, Field(coerce_numbers_to_str=True, min_length=1)] | None = Field(
        default=None, json_schema_extra=ABSENT_IF_DEFAULT
    )
    """The weights to take from a checkpoint that holds several: their key, such as `state_dict_ema`, or what their
    names begin with, such as `student`. None = those under a key that is known, which is said."""

    train: TeacherTrainingConfig | None = None

    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None
    """Per-channel mean that the checkpoint was trained with, of images in [0, 1]. Needed with `checkpoint`; a teacher
    that is trained here uses the mean of its training images."""

    std: tuple[Annotated[float, Field(gt=0.0, allow_inf_nan=False)], ...] | None = None
    """Per-channel standard deviation, as for `mean`."""

    accept: bool = Field(default=False, json_schema_extra=OUTCOME_NEUTRAL)
    """Whether to take a teacher that is no better than guessing on labelled validation or, without labels, gives nearly
    all candidates one class. Else that is an error before anything is built."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.checkpoint is None) == (self.train is None):
            raise ValueError("give exactly one of `checkpoint` (your own) or `train` (trained here)")
        if self.checkpoint is not None and (self.mean is None or self.std is None):
            raise ValueError("a checkpoint needs `mean` and `std`, the normalisation it was trained with")
        if self.train is not None and self.weights is not None:
            raise ValueError("`weights` chooses among those of a checkpoint; a teacher trained here has one set")
        if self.train is not None and (self.mean is not None or self.std is not None):
            raise ValueError(
                "a teacher trained here uses the mean and std of its training images; leave `mean` and `std` out"
            )
        return self


class JudgeConfig(Section):
    """A second network, trained on other seeds or other images than the teacher. The evaluation compares synthetic and
    held-out images in its features, since the teacher's flatter images that were made to please the teacher."""

    architecture: str = "resnet34-32px"
    """Name of a network, as of the teacher."""

    width: int | None = Field(default=None, ge=1, le=4096)
    """Channels of the first stage, as of the teacher."""

    code: Material | None = Field(default=None, json_schema_extra=ABSENT_IF_DEFAULT)
    """The file of a network of your own, as of the teacher."""

    checkpoint: Material
    """State dict, as of the teacher."""

    weights: Annotated[str, Field(coerce_numbers_to_str=True, min_length=1)] | None = Field(
        default=None, json_schema_extra=ABSENT_IF_DEFAULT
    )
    """The weights to take from it, as of the teacher."""

    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
    """Per-channel mean that the checkpoint was trained with, of images in [0, 1]."""

    std: tuple[Annotated[float, Field(gt=0.0, allow_inf_nan=False)], ...]
    """Per-channel standard deviation, as for `mean`."""

    num_classes: int | None = Field(default=None, ge=2, le=100_000)
    """Number of classes of the checkpoint, which need not be the teacher's; default: `data.num_classes`."""


class CollectionConfig(Section):
    """D_c: the choice of the collected images and of the hold-out among the candidates."""

    num_images: Images = 5_000
    """n_c, number of collected images. Paper: 5,000 for 32-px data sets."""

    mode: Literal["random", "confident", "confident_per_class"] = "confident"
    """Rule of the choice. `random`: by seed; `confident`: lowest cross-entropy to the teacher's own argmax, over all
    classes together (unbalanced); `confident_per_class`: the same within each class (balanced)."""

    holdout_images: int = Field(default=2_000, ge=10)
    """Size of the hold-out, on which the objective is measured: candidates drawn by seed, before the selection."""

    leaves_out_validation: bool = Field(default=True, json_schema_extra=OUTCOME_NEUTRAL)
    """Whether candidates that are images of `data.validation`, by their pixels, are left out like those of `data.test`.
    False goes on with what was built before they were: the collection then does not depend on the validation images."""


class EmaConfig(Section):
    """Exponential moving average of G's weights: beta = 0.5^(batch_images / half_life_images)."""

    half_life_images: Images = 693_000
    """Half life in images. Paper: 0.9999 per step at batch 100."""

    start_images: int = Field(default=100_000, ge=0)
    """Images up to which the average is a copy of the weights. Paper: step 1,000 of batch 100."""

    ramp: float | None = Field(default=None, gt=0.0, le=10.0)
    """Limit of the half life to `ramp` x images seen, which short runs need; none = no limit."""


class IntegrationConfig(Section):
    """Feature integration: L_trans and L_blend (paper Eqs. 8-9)."""

    trans_weight: Weight = 0.1
    blend_weight: Weight = 0.1
    hidden_width: int = Field(default=1024, ge=1, le=65536)
    """Width between W1 and W2 of r(x)."""

    pairing: Literal["position", "class_mean"] = "position"
    """Partner of an image in L_blend: the image at its position in the other half of the batch (real or generated), or
    the mean feature of its class there."""


class SmoothingConfig(Section):
    """Category frequency smoothing: L_reg (paper Eqs. 10-12; class weights after Class-Balancing GAN)."""

    mode: Literal["off", "uniform", "effective", "inverse"] = "inverse"
    """Class weights: `inverse` 1/N_k; `effective` (1-beta)/(1-beta^N_k); `uniform` all 1, as the release computes."""

    weight: Weight = 0.1
    temperature: float = Field(default=1.0, ge=0.05, le=100.0)
    """tau, which divides the teacher's logits inside p_k. Our addition; 1 = as in the paper."""

    counting: Literal["hard", "soft"] = "hard"
    """Counts of the running frequencies: `hard`: argmax; `soft`: softmax at the same tau."""

    momentum: Fraction = 0.5
    """Momentum a of the frequencies, f_k <- a f_k + (1-a) f_k(new)."""

    update_images: Images = 10_000
    """U, generated images between two updates of the frequencies."""

    nominal_images: Images = 5_000
    """Scale of N_k = f_k x nominal_images (at least 1), so that batch size and U do not change the class weights."""

    beta: float = Field(default=0.99, ge=0.0, lt=1.0)
    """beta of `mode: effective`."""


class GenerationConfig(Section):
    """Teacher-guided generation: an ADC-GAN with the two loss terms of the teacher."""

    networks: Literal["residual", "light"] = "residual"
    """Generator and discriminator: `residual`: the paper's; `light`: plain convolutions, for CPUs."""

    image_size_pixels: Literal[28, 32, 64] = 32
    """Side of the generated images, independent of the teacher's images."""

    attention: bool = Field(default=False, json_schema_extra=ABSENT_IF_DEFAULT)
    """Whether generator and discriminator have self-attention on maps of half the side (`networks: residual` alone)."""

    width: int = Field(default=256, ge=4, le=2048)
    """Channels (light: at the largest resolution)."""

    latent_dim: int = Field(default=128, ge=1, le=4096)
    target_images: Images = 2_000_000
    """Budget: real images seen by D. Paper: 20,000 steps of 100."""

    batch_images: int = Field(default=100, ge=2)
    discriminator_steps: int = Field(default=1, ge=1, le=16)
    """Steps of D per step of G."""

    generator_learning_rate: LearningRate = 2e-4
    discriminator_learning_rate: LearningRate = 2e-4
    adam_beta1: float = Field(default=0.0, ge=0.0, lt=1.0)
    adam_beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    adversarial_weight: Weight = 1.0
    adc_weight: Weight = 1.0
    integration: IntegrationConfig = IntegrationConfig()
    smoothing: SmoothingConfig = SmoothingConfig()
    teacher_terms_every: int = Field(default=1, ge=1, le=1000, json_schema_extra=ABSENT_IF_DEFAULT)
    """k: L_trans, L_blend and L_reg are in every k-th step alone, with k times their weight; at the others the teacher
    is not asked, which saves its time. 1 = as in the paper."""

    consistency_weight: Weight = Field(default=0.0, json_schema_extra=ABSENT_IF_DEFAULT)
    """Weight of the squared difference between D's scores of an image, real or generated, and of a mirrored and shifted
    view of it (balanced consistency regularisation; published: 10). 0 = off, as in the paper."""

    lecam_weight: Weight = Field(default=0.0, json_schema_extra=ABSENT_IF_DEFAULT)
    """Weight of LeCam regularisation, which holds D's scores of real images near the running mean of the generated
    ones' and the reverse (published: 0.01 to 0.3). 0 = off, as in the paper."""

    ema: EmaConfig = EmaConfig()
    diff_augment: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """DiffAugment policies for the images that D sees. Empty = none, as in the paper."""

    flip: bool = False
    """Random horizontal flips of the real images. False = as in the paper."""

    snapshots_at_images: tuple[Images, ...] = Field(default=(), json_schema_extra=OUTCOME_NEUTRAL)
    """Shorter lengths at which the generator is stored too: each is exactly the artifact of a trial with that
    `target_images`. Lengths that are not shorter than `target_images` are ignored."""

    statistics_batches: int = Field(default=16, ge=1, le=1024)
    """Batches from which the EMA generator's batch-norm statistics are re-estimated before it generates images."""

    grid_every_images: Images = Field(default=100_000, json_schema_extra=OUTCOME_NEUTRAL)
    """Interval of the grid of images from fixed noise."""

    proxies_every_images: Images = Field(default=500_000, json_schema_extra=OUTCOME_NEUTRAL)
    """Interval of the proxy metrics (confidence, entropy, deviation, density, coverage, memorisation)."""

    @model_validator(mode="after")
    def _attention_fits(self) -> Self:
        if self.attention and self.networks == "light":
            raise ValueError("`attention` needs `networks: residual`")
        return self


class SynthesisConfig(Section):
    """D_s: synthetic images of the EMA generator."""

    num_images: int = Field(default=50_000, ge=0)
    """n_s, number of synthetic images; 0 = real images only, and no generator is trained."""

    filter: Literal["none", "agreement"] = "none"
    """`agreement` keeps only images for which the teacher's argmax is the label they were generated for."""


class DistillationConfig(Section):
    """Training of the student on D_c x inflation + D_s (paper Eqs. 13-14)."""

    architecture: str = "resnet18-32px"
    """Name of the student's network, as of the teacher's."""

    width: int | None = Field(default=None, ge=1, le=4096)
    code: Material | None = Field(default=None, json_schema_extra=ABSENT_IF_DEFAULT)
    """The file of a network of your own, as of the teacher."""

    head: Literal["shared", "own"] = "shared"
    """Classifier of the student. `shared`: the teacher's, frozen, on projected features (SimKD); `own`: plain KD, no
    projector."""

    inflation: float = Field(default=10.0, ge=0.0, le=10_000.0)
    """N, appearances of each collected image per pass over the hybrid set; 0 = synthetic images only."""

    feature_weight: Weight = 1.0
    """Weight of the feature alignment (paper Eq. 14), which needs `head: shared`."""

    kl_weight: Weight = 0.0
    kl_temperature: float = Field(default=4.0, ge=0.05, le=100.0)
    ce_weight: Weight = 0.0
    """Weight of the cross-entropy to the teacher's argmax for the same view."""

    target_images: Images = 24_000_000
    """Budget: images seen by the student. Paper: 240 epochs of 100,000."""

    batch_images: int = Field(default=64, ge=2)
    learning_rate: LearningRate = 0.05
    """Initial learning rate. Paper: 0.05, and 0.01 for MobileNet and ShuffleNet."""

    momentum: Fraction = 0.9
    weight_decay: Weight = 5e-4
    schedule: Literal["steps", "cosine"] = "steps"
    """Learning rate over the budget. `steps`: x `decay_factor` at each of `decay_at`; `cosine`: a cosine to zero."""

    decay_at: tuple[Fraction, ...] = (0.625, 0.75, 0.875)
    """Shares of the budget at which `steps` decays. Paper: epochs 150, 180, 210 of 240."""

    decay_factor: Fraction = 0.1
    crop_scale_min: float = Field(default=0.08, gt=0.0, le=1.0)
    """Smallest share of the area in RandomResizedCrop."""

    crop_fraction: Fraction = Field(default=1.0, json_schema_extra=ABSENT_IF_DEFAULT)
    """Share of the views that are cropped; the others show the whole image. 1 = as in the paper."""

    crop_fraction_synthetic: Fraction | None = Field(default=None, json_schema_extra=ABSENT_IF_DEFAULT)
    """The same for views of synthetic images; none = as `crop_fraction`."""

    flip: bool = True
    mix: Literal["none", "cutmix", "mixup"] = Field(default="none", json_schema_extra=ABSENT_IF_DEFAULT)
    """Mixing of views, each with another one, of which the teacher answers the result: `cutmix`: a box of the other
    view; `mixup`: a weighted mean. none = as in the paper."""

    mix_fraction: Fraction = Field(default=1.0, json_schema_extra=ABSENT_IF_DEFAULT)
    """Share of the views that are mixed."""

    mix_across: bool = Field(default=False, json_schema_extra=ABSENT_IF_DEFAULT)
    """Whether a view of a real image may be mixed with one of a synthetic image; else real ones are mixed with real
    ones. Needs `view_bank: 0`."""

    view_bank: int = Field(default=0, ge=0, le=100_000_000, json_schema_extra=ABSENT_IF_DEFAULT)
    """B, number of views that are drawn once, answered by the teacher once and then seen again and again; they and the
    teacher's maps of them are held in memory. At most `target_images`; 0 = all are drawn anew, as in the paper."""

    measure_every_images: Images = Field(default=1_200_000, json_schema_extra=OUTCOME_NEUTRAL)
    """Interval at which the agreement on the hold-out is measured for the curve."""

    @model_validator(mode="after")
    def _head_and_losses(self) -> Self:
        if self.head == "own" and self.feature_weight > 0:
            raise ValueError("`head: own` has no projector: set feature_weight to 0 and kl_weight above 0")
        if self.feature_weight + self.kl_weight + self.ce_weight == 0:
            raise ValueError("every loss weight is 0: the student would learn nothing")
        if self.mix_across and self.view_bank:
            raise ValueError("`mix_across` needs `view_bank: 0`, as students share the views of real images in a bank")
        return self


class SeedsConfig(Section):
    """One seed per stage. Search trials of a study share them; finalists replace the last three."""

    teacher: Seed = 0
    collection: Seed = 0
    generation: Seed = 0
    synthesis: Seed = 0
    distillation: Seed = 0


class TrialConfig(Section):
    """One trial: import -> teacher -> collection -> generation -> synthesis -> distillation -> evaluation."""

    method: Method = Field(default="hidfd", json_schema_extra=ABSENT_IF_DEFAULT)
    """What the student learns from, and how. `hidfd`: this project's; or a published method in place of generation,
    synthesis and distillation: `dafl` and `cmi` make their own images, without any real one; `dfnd` learns from the
    collected images alone. `distillation` describes the student of each."""

    preset: Literal["paper", "quick"] | None = Field(default=None, json_schema_extra=OUTCOME_NEUTRAL)
    """Values that replace the defaults: `paper` (bf16, for GPUs), `quick` (minutes on two CPU cores)."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the networks. `bf16`: autocast, with losses in fp32; needs a GPU. `fp32`: TF32 on a GPU."""

    data: DataConfig
    teacher: TeacherConfig
    collection: CollectionConfig = CollectionConfig()
    generation: GenerationConfig = GenerationConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    distillation: DistillationConfig = DistillationConfig()
    seeds: SeedsConfig = SeedsConfig()
    dafl: DaflConfig = Field(default=DaflConfig(), json_schema_extra=ABSENT_IF_DEFAULT)
    cmi: CmiConfig = Field(default=CmiConfig(), json_schema_extra=ABSENT_IF_DEFAULT)
    dfnd: DfndConfig = Field(default=DfndConfig(), json_schema_extra=ABSENT_IF_DEFAULT)
    judge: JudgeConfig | None = Field(default=None, json_schema_extra=ABSENT_IF_DEFAULT)
    """The network in whose features synthetic images are compared with the hold-out; none = they are not."""

    log_every_images: Images = Field(default=20_000, json_schema_extra=OUTCOME_NEUTRAL)
    """Interval of the metrics, the only points at which a training loop waits for the device."""

    checkpoint_every_seconds: float = Field(default=60.0, gt=0.0, json_schema_extra=OUTCOME_NEUTRAL)
    """Longest time between two checkpoints of a training loop."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        problems = []
        networks: dict[str, TeacherConfig | JudgeConfig] = {"teacher": self.teacher}
        if self.judge is not None:
            networks["judge"] = self.judge
        for section, network in (networks | {"distillation": self.distillation}).items():
            name, is_own = network.architecture, OWN.fullmatch(network.architecture) is not None
            if name not in ARCHITECTURES and not is_outside(name):
                known = meant_or_known(name, ARCHITECTURES)
                problems.append(f"{section}.architecture: unknown architecture {name!r}; {known}; or {OUTSIDE_FORMS}")
            elif network.width is not None and not (name in ARCHITECTURES and ARCHITECTURES[name].has_width_setting):
                problems.append(f"{section}.width: {name} has no width setting; leave it out")
            if is_own and network.code is None:
                problems.append(
                    f"{section}.architecture: {name}: a network of your own belongs into the section `trial:` of the "
                    f"study file, where its file is known; it can be no value of a search or a variant"
                )
            if network.code is not None and not is_own:
                problems.append(f"{section}.code: only for a network of your own (FILE.py:FUNCTION), not {name}")
        if self.uses_generator and self.data.num_classes < 3 and self.smoothing_is_on:
            problems.append(
                "generation.smoothing.mode: frequency smoothing needs at least 3 classes, found num_classes: 2 "
                "(for two classes the optimum of L_reg changes sign); set trial.generation.smoothing.mode=off"
            )
        if self.method == "hidfd" and not self.uses_real_images and not self.uses_synthetic_images:
            problems.append("distillation.inflation and synthesis.num_images are both 0: no images to learn from")
        weights = {name: value for name, value in self.method_settings.items() if name.endswith("_weight")}
        if self.makes_images and not any(weights.values()):
            problems.append(f"{self.method}: {', '.join(weights)} are all 0: the generator would learn nothing")
        if self.method == "cmi" and self.cmi.round_images < self.distillation.batch_images:
            problems.append(
                f"cmi.round_images: {self.cmi.round_images:,} images are less than a step of the student sees "
                f"(distillation.batch_images: {self.distillation.batch_images:,})"
            )
        if self.data.class_names and len(self.data.class_names) != self.data.num_classes:
            problems.append(
                f"data.class_names: {plural(len(self.data.class_names), 'name')} for "
                f"{plural(self.data.num_classes, 'class', 'classes')}"
            )
        labelled = {"data.validation": self.data.validation, "data.test": self.data.test}
        if self.teacher.train is not None:
            labelled["teacher.train.images"] = self.teacher.train.images
        for where, material in labelled.items():
            order = (material and material.label_order) or ()
            if len(set(order)) < len(order) or any(number >= self.data.num_classes for number in order):
                problems.append(
                    f"{where}.label_order: expected different classes, each from 0 to {self.data.num_classes - 1}"
                )
        for section, given in networks.items():
            for name in ("mean", "std"):
                values = getattr(given, name)
                if values is not None and len(values) != self.data.channels:
                    problems.append(
                        f"{section}.{name}: {plural(len(values), 'value')} for {plural(self.data.channels, 'channel')}"
                    )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def makes_images(self) -> bool:
        """Whether the student's images are made while it learns, from the teacher alone."""
        return self.method in ("dafl", "cmi")

    @property
    def method_settings(self) -> dict[str, Any]:
        """The settings of the method's own section; empty for HiDFD, whose stages have sections."""
        return {} if self.method == "hidfd" else dict(getattr(self, self.method))

    @property
    def uses_real_images(self) -> bool:
        """Whether collected images reach the student."""
        return self.method == "dfnd" or (self.method == "hidfd" and self.distillation.inflation > 0)

    @property
    def uses_synthetic_images(self) -> bool:
        """Whether synthetic images from the store reach the student: a generator's or the user's."""
        return self.method == "hidfd" and (self.data.synthetic is not None or self.synthesis.num_images > 0)

    @property
    def is_judged(self) -> bool:
        """Whether the evaluation compares synthetic images with the hold-out in the features of a judge."""
        return self.judge is not None and self.uses_synthetic_images

    @property
    def batches(self) -> dict[str, tuple[str, int]]:
        """Stages of this trial that train, in order -> (setting of the batch size, images in a batch)."""
        found: dict[str, tuple[str, int]] = {}
        if self.teacher.train is not None:
            found["teacher"] = ("trial.teacher.train.batch_images", self.teacher.train.batch_images)
        if self.uses_generator:
            found["generation"] = ("trial.generation.batch_images", self.generation.batch_images)
        found["distillation"] = ("trial.distillation.batch_images", self.distillation.batch_images)
        return found

    @property
    def uses_generator(self) -> bool:
        """Whether this trial trains a generator before its student, which other students may share."""
        return self.uses_synthetic_images and self.data.synthetic is None

    @property
    def asked_views(self) -> int:
        """Number of views that the teacher answers for one student."""
        target = self.distillation.target_images
        return min(self.bank_views or target, target)

    @property
    def bank_views(self) -> int:
        """B, number of views in the student's bank; 0 = all are drawn anew, as of images that are made meanwhile."""
        return 0 if self.makes_images else self.distillation.view_bank

    @property
    def smoothing_is_on(self) -> bool:
        """Whether the loss has the frequency smoothing term."""
        return self.generation.smoothing.mode != "off" and self.generation.smoothing.weight > 0

    @property
    def generation_asks_teacher(self) -> bool:
        """Whether a loss of the generation has an answer of the teacher."""
        weights = self.generation.integration
        return weights.trans_weight > 0 or weights.blend_weight > 0 or self.smoothing_is_on


def check_processes(config: TrialConfig, count: int) -> None:
    """Check that the method of a trial can train on a number of processes.

    Raises:
        ConfigError: it trains on one alone.
    """
    if count > 1 and config.method != "hidfd":
        raise ConfigError(
            f"trial.method: {config.method} trains on one process, found {count}; start one (in a study "
            f"resources.num_workers: 1)"
        )


def check_shares(batches: Mapping[str, int], count: int) -> None:
    """Check that every global batch is divisible by the number of processes.

    Args:
        batches: setting -> images in a batch.
        count: number of processes, W.

    Raises:
        ConfigError: names every batch that is not divisible and the next size that is.
    """
    unequal = {name: images for name, images in batches.items() if images % count}
    if unequal:
        found = ", ".join(f"{name} {images:,}" for name, images in unequal.items())
        instead = " ".join(f"{name}={-(-images // count) * count}" for name, images in unequal.items())
        raise ConfigError(
            f"{found}: {count} processes cannot share it equally; set {instead} (which is another trial), or use a "
            f"number of processes that divides it"
        )
