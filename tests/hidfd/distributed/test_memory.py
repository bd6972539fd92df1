"""Too little memory: a message that names what was held and the settings to lower, and memory that is given back."""

import re
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.distributed.device import Device
from hidfd.errors import DeviceError, OutOfMemoryError
from hidfd.networks.student import Student
from hidfd.networks.teacher import Teacher
from hidfd.pipeline.graph import plan
from hidfd.pipeline.observer import Observer
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.stages.memory import explaining_out_of_memory, holdings
from hidfd.stages.methods.student_training import StudentTraining
from hidfd.store.store import Store
from hidfd.trial import Trial, run_trial
from hidfd.views.bank import ViewBank
from tests.hidfd.stages.golden.runs import CONFIG

GIB = 2**30
CPU, GPU = (Device(torch.device(kind), "fp32") for kind in ("cpu", "cuda"))
TOO_MUCH = 2**50
"""Bytes that no process can have: 1 PiB is more than its address space."""

ON_A_GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which ..."
FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "torch on the CPU": (lambda: torch.empty(TOO_MUCH, dtype=torch.uint8), "1048576.00 GiB more could not be had"),
    "NumPy": (lambda: np.empty(TOO_MUCH, dtype=np.uint8), "1048576.00 GiB more could not be had"),
    "pyarrow": (lambda: pa.allocate_buffer(TOO_MUCH), "1048576.00 GiB more could not be had"),
    "Python": (lambda: bytearray(TOO_MUCH), "what it asked for could not be had"),
}


def raising(error: Exception) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


def message(
    fault: Callable[[], object], stage: str = "distillation", device: Device = CPU, training: Any = None, **values: Any
) -> str:
    """Return the message of a stage of the golden runs' trial that ends by a fault."""
    config = with_values(CONFIG, values)
    with (
        pytest.raises(OutOfMemoryError) as raised,
        explaining_out_of_memory(plan(config)[stage], config, device, training),
    ):
        fault()
    assert "\n" not in str(raised.value)
    return str(raised.value)


class Holder:
    """A training that holds 4 MiB of networks, half of it gradients, 2 MiB of momentum, and resident images."""

    def __init__(self, image_mib: int) -> None:
        self.network = nn.Linear(2**19, 1, bias=False)
        self.again = nn.Sequential(self.network)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9)
        self.network.weight.grad = torch.zeros_like(self.network.weight)
        self.optimizer.step()
        self.images = torch.zeros(image_mib, 2**20, dtype=torch.uint8)
        self.first_images = self.images[:1]


@pytest.mark.parametrize("name", FAULTS)
def test_every_error_of_too_little_memory_says_what_could_not_be_had(name: str) -> None:
    fault, words = FAULTS[name]
    text = message(fault)
    assert text.startswith(f"distillation: out of memory on this machine, {words}. This process held up to ")
    assert text.endswith("What was built is kept, and so are the checkpoints")


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: an illegal memory access"), ValueError("x"), DeviceError("no CUDA")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explaining_out_of_memory(plan(CONFIG)["distillation"], CONFIG, CPU):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("teacher", {"teacher.train.batch_images": 7}),
        ("generation", {"generation.batch_images": 7, "generation.width": 12}),
        ("distillation", {"distillation.batch_images": 1234}),
    ],
)
def test_a_training_names_its_batch_with_its_present_size_first(stage: str, settings: dict[str, Any]) -> None:
    text = message(FAULTS["Python"][0], stage, training=Holder(image_mib=0), **settings)
    words = " or ".join(f"trial.{name} (now {value:,})" for name, value in settings.items())
    assert f"Lower {words}; that makes another trial." in text


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"method": "dafl"}, ("dafl.width",)),
        ({"method": "cmi"}, ("cmi.synthesis_batch_images", "cmi.width")),
        ({"method": "dfnd", "distillation.view_bank": 100}, ()),
    ],
)
def test_a_student_of_another_method_names_what_its_own_images_take(
    values: dict[str, str], named: tuple[str, ...]
) -> None:
    text = message(FAULTS["Python"][0], training=Holder(1), **values)
    found = re.findall(r"trial\.([\w.]+) \(now", text)
    assert found == ["distillation.batch_images", *named]


@pytest.mark.parametrize("stage", ["candidates", "collection", "synthesis", "evaluation"])
def test_a_stage_that_asks_in_fixed_batches_names_the_size_of_the_images(stage: str) -> None:
    size = CONFIG.data.image_size_pixels
    assert f"Lower trial.data.image_size_pixels (now {size}); that" in message(FAULTS["Python"][0], stage)


def test_before_the_first_step_the_batch_is_not_to_blame() -> None:
    fault = FAULTS["Python"][0]
    assert "batch_images" not in message(fault, "teacher")
    assert "batch_images" not in message(fault, "generation")
    size = f"trial.data.image_size_pixels (now {CONFIG.data.image_size_pixels})"
    bank = message(fault, "distillation", **{"distillation.view_bank": 4000})
    assert f"Lower trial.distillation.view_bank (now 4,000) or {size}; that" in bank


@pytest.mark.parametrize(("image_mib", "is_named"), [(1, False), (60, True)])
def test_a_student_whose_images_fill_the_memory_is_to_have_fewer_of_them(image_mib: int, is_named: bool) -> None:
    text = message(FAULTS["Python"][0], training=Holder(image_mib))
    assert (f"trial.synthesis.num_images (now {CONFIG.synthesis.num_images})" in text) is is_named


def test_holdings_count_each_tensor_once_and_under_what_it_is_for() -> None:
    mib = 2**20
    held = {"networks": 4 * mib, "optimiser state": 2 * mib, "resident images": 3 * mib}
    assert holdings(Holder(3), "cpu") == held
    assert set(holdings(Holder(3), "cuda").values()) == {0}
    words = "; the training: networks 4.0 MiB, optimiser state 2.0 MiB, resident images 3.0 MiB. Lower"
    assert words in message(FAULTS["Python"][0], training=Holder(3))


@pytest.fixture
def gpu_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set what a GPU of 8 GiB reports, of which this process holds 3 GiB, and 1 GiB more in reserve."""

    def report(free_gib: float) -> None:
        numbers = {"memory_allocated": 3 * GIB, "memory_reserved": 4 * GIB, "mem_get_info": (free_gib * GIB, 8 * GIB)}
        for name, value in numbers.items():
            monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    return report


def test_on_a_gpu_the_message_says_who_holds_how_much(gpu_of: Callable[[float], None]) -> None:
    gpu_of(3.5)
    text = message(raising(torch.OutOfMemoryError(ON_A_GPU)), device=GPU, training=Holder(3))
    assert "distillation: out of memory on the GPU, 2.00 GiB more could not be had. " in text
    assert (
        "This process holds 3.00 GiB (4.00 GiB reserved), other processes and CUDA itself 512 MiB, of 8.00 GiB" in text
    )
    assert "the training: activations and the rest of the step 3.00 GiB. Lower trial.distillation.batch_images" in text


def test_a_gpu_that_others_fill_is_to_be_shared_by_fewer(gpu_of: Callable[[float], None]) -> None:
    gpu_of(0.5)
    text = message(raising(torch.OutOfMemoryError(ON_A_GPU)), "teacher", device=GPU)
    assert "other processes and CUDA itself 3.50 GiB, of 8.00 GiB. Let fewer tasks share the GPU " in text
    assert "(raise resources.gpus_per_worker), and the trial goes on. Or lower trial.data.image_size_pixels" in text


def test_a_gpu_too_full_to_be_asked_does_not_hide_the_error(
    gpu_of: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of(0.0)
    full = RuntimeError("CUDA error: out of memory")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: raising(full)())
    text = message(raising(full), device=GPU)
    assert "what it asked for could not be had. This process holds 3.00 GiB (4.00 GiB reserved). Lower" in text


def test_a_trial_on_a_gpu_that_fills_the_machines_memory_says_so(gpu_of: Callable[[float], None]) -> None:
    gpu_of(8.0)
    assert "out of memory on this machine" in message(FAULTS["NumPy"][0], device=GPU)


@pytest.mark.parametrize(("training", "network"), [(AdversarialTraining, "generator"), (StudentTraining, "student")])
def test_memory_is_free_again_while_the_error_is_still_at_hand(
    training: type[Any], network: str, trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Any]] = []

    def step(training: Any, images_seen: int) -> dict[str, Tensor]:
        activations = torch.zeros(8)
        held.extend(map(weakref.ref, (activations, training, getattr(training, network))))
        FAULTS["torch on the CPU"][0]()
        return {"unreachable": activations}

    monkeypatch.setattr(training, "step", step)
    with pytest.raises(OutOfMemoryError) as raised:
        run_trial(trial_config, store, device="cpu")
    assert isinstance(raised.value.__cause__, RuntimeError), "for whoever looks for the line"
    assert len(held) == 3
    assert [reference() for reference in held] == [None] * 3


def test_a_trial_that_does_not_fit_leaves_what_was_built_and_goes_on_with_a_smaller_batch(
    trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = AdversarialTraining.step

    def limited(training: AdversarialTraining, images_seen: int) -> dict[str, Tensor]:
        if training.settings.batch_images > 4 and images_seen:
            raise torch.OutOfMemoryError(ON_A_GPU)
        return step(training, images_seen)

    monkeypatch.setattr(AdversarialTraining, "step", limited)
    with pytest.raises(
        OutOfMemoryError, match=r"^generation: .* networks .* trial\.generation\.batch_images \(now 8\)"
    ):
        run_trial(trial_config, store, until="generation", device="cpu")
    smaller = with_values(trial_config, {"generation.batch_images": 4})
    assert "collection" in run_trial(smaller, store, until="generation", device="cpu").reused


def test_a_stage_before_the_training_is_explained_too(
    trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hidfd.trial.import_images", lambda context: FAULTS["Python"][0]())
    with pytest.raises(
        OutOfMemoryError, match=r"^candidates: out of memory .* trial\.data\.image_size_pixels \(now 28\)"
    ):
        run_trial(trial_config, store, device="cpu")


ON_THE_CPU = (
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "2147483648 bytes. Error code 12 (Cannot allocate memory)"
)


def said_by(run: Callable[[], object], network: type, method: str, error: Exception) -> str:
    """Return the message of a run in which a network does not get the memory to answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, method, lambda *_, **__: raising(error)())
        with pytest.raises(OutOfMemoryError) as raised:
            run()
    text = str(raised.value)
    assert "out of memory on this machine, 2.00 GiB more could not be had. This process held up to " in text
    assert re.search(r"; (this stage|the training): networks [\d.]+ [KM]iB", text), text
    return text


@pytest.mark.parametrize(
    ("side", "error"),
    [
        pytest.param(64, torch.OutOfMemoryError(ON_A_GPU), id="64px"),
        pytest.param(224, RuntimeError(ON_THE_CPU), id="224px", marks=pytest.mark.slow),
    ],
)
def test_whatever_asks_a_network_says_what_was_held_and_what_to_lower(
    trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch, side: int, error: Exception
) -> None:
    monkeypatch.setattr("hidfd.views.bank.BLOCK_VIEWS", 20)
    values = {"data.image_size_pixels": side, "distillation.view_bank": 20, "teacher.accept": True}
    values |= {"collection.holdout_images": 20, "synthesis.num_images": 20, "distillation.target_images": 16}
    trial = Trial(with_values(trial_config, values), store, CPU, Observer())
    size = f"trial.data.image_size_pixels (now {side})"
    bank = f"trial.distillation.view_bank (now 20) or {size}"
    trial.run("teacher")
    trial.imported("candidates")
    text = said_by(lambda: trial.check_teacher(is_first=True), Teacher, "ask", error)
    assert text.startswith("teacher_check: ")
    assert f"Lower {size}; that" in text
    trial.check_teacher(is_first=True)
    for before, stage, network, method, advice in (
        ("teacher", "collection", Teacher, "ask", size),
        ("collection", "generation", Teacher, "ask", f"trial.generation.width (now 4) or {size}"),
        ("generation", "synthesis", Teacher, "ask", size),
        ("synthesis", "distillation", Teacher, "ask", bank),
        ("synthesis", "distillation", ViewBank, "_block", bank),
        ("synthesis", "distillation", Student, "forward", "trial.distillation.batch_images (now 16)"),
        ("distillation", "evaluation", Student, "forward", size),
    ):
        trial.run(before)
        text = said_by(partial(trial.run, stage), network, method, error)
        assert text.startswith(f"{stage}: ")
        assert f"Lower {advice}" in text


def test_pages_that_ask_the_teacher_about_the_users_own_images_are_explained_too(
    trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    own = with_values(trial_config, {"data.synthetic": {"path": trial_config.data.candidates.path}})
    run = partial(run_trial, own, store, device="cpu", until="distillation")
    run()
    text = said_by(partial(run, folder=tmp_path / "trial"), Teacher, "ask", RuntimeError(ON_THE_CPU))
    assert text.startswith("distillation: ")


@pytest.fixture
def small_gpu() -> Iterator[None]:
    """Allow this process no more than 512 MiB of the GPU beside what it holds already."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + GIB / 2) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.mark.gpu
@pytest.mark.usefixtures("small_gpu")
def test_a_student_that_does_not_fit_a_gpu_is_explained_and_its_memory_is_given_back(
    trial_config: TrialConfig, store: Store
) -> None:
    # The views of 65,536 images of 28 x 28 and the grid that they are sampled at take some 600 MiB.
    before, large = torch.cuda.memory_reserved(), with_values(trial_config, {"distillation.batch_images": 65_536})
    with pytest.raises(OutOfMemoryError) as raised:
        run_trial(large, store, device="cuda")
    text = str(raised.value)
    assert text.startswith("distillation: out of memory on the GPU, ")
    for words in ("iB more could not be had", "networks", "resident images", "activations and the rest of the step"):
        assert words in text
    assert "trial.distillation.batch_images (now 65,536)" in text
    assert torch.cuda.memory_reserved() < before + GIB / 8, (
        "of what did not fit nothing is kept, though the error is at hand"
    )
    assert "agreement" in run_trial(trial_config, store, device="cuda").metrics
