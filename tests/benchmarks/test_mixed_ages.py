"""Synthetic images of several ages make one set, which a trial takes as its own."""

from pathlib import Path

import torch

from benchmarks.mixed_ages import write_ages
from hidfd.config.paths import with_values
from hidfd.data.image_set import open_images
from hidfd.store.store import Store
from hidfd.trial import run_trial
from tests.hidfd.miniature import build_world, miniature


def test_images_of_two_ages_come_back_bit_for_bit_as_the_synthetic_set_of_a_trial(tmp_path: Path) -> None:
    store, config = Store.open(str(tmp_path / "store"), writes=True), miniature(build_world(tmp_path))
    found = []
    for age in (16, 48):
        younger = with_values(config, {"generation.target_images": age})
        result = run_trial(younger, store, device="cpu", until="synthesis")
        stage = result.stages["synthesis"]
        found.append(torch.from_numpy(open_images(store.get(stage.name, stage.digest)).pixels))
    assert write_ages(result.config, store, [16, 48], tmp_path / "ages.parquet") == 80
    mixed = run_trial(
        with_values(config, {"data.synthetic": {"path": str(tmp_path / "ages.parquet")}}), store, device="cpu"
    )
    stage = mixed.stages["synthesis"]
    pixels = torch.from_numpy(open_images(store.get(stage.name, stage.digest)).pixels)
    assert torch.equal(pixels, torch.cat(found))
