"""The import of images: whatever people have becomes one set of pixels, which is known by its content."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hidfd.config.schema import Material, TrialConfig
from hidfd.data import image_set as imagesets
from hidfd.data.decoding import pixel_hash
from hidfd.data.identify import identify
from hidfd.data.image_set import open_images, open_pixel_hashes
from hidfd.errors import InputError, Stopped
from hidfd.pipeline import graph as stages
from hidfd.stages.imports.images import import_images
from hidfd.store.store import Store
from tests.hidfd.imports import SHA256, Listener, config_of, context_of, picture, png, run_import, write_parquet

SHIPPED = Path(__file__).parents[4] / "studies" / "data" / "fashion"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photos as people have them: nested, of any size and mode, with hidden files and other files."""
    folder = tmp_path / "photos"
    for name, image in {
        "a.png": picture(0),
        "b.jpg": picture(1, (40, 30)),
        "2019/c.JPG": picture(2, (5, 9), "CMYK"),
        "2019/may/d.png": picture(3, (16, 8), "P"),
        "2019/may/e.png": picture(4, (9, 9), "RGBA"),
        "2019/may/f.jpeg": picture(5, (300, 200), "L"),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(b"hidden")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_folder_of_anything_becomes_one_set(photos: Path, store: Store) -> None:
    artifact = run_import(config_of(photos), store)
    images = open_images(artifact)
    assert images.pixels.shape == (6, 3, 8, 8)
    assert images.pixels.dtype == np.uint8
    assert images.labels is None
    assert list(images.paths) == ["2019/c.JPG", "2019/may/d.png", "2019/may/e.png", "2019/may/f.jpeg", "a.png", "b.jpg"]
    original = np.asarray(picture(0))
    np.testing.assert_array_equal(images.pixels[4], original.transpose(2, 0, 1))
    assert images.pixel_hashes[4] == pixel_hash(original)
    np.testing.assert_array_equal(open_pixel_hashes(artifact), images.pixel_hashes)
    assert artifact.meta["num_images"] == 6
    assert artifact.meta["num_broken"] == 0


def test_pixels_may_be_written_to_so_that_torch_takes_them_without_a_copy(photos: Path, store: Store) -> None:
    assert open_images(run_import(config_of(photos), store)).pixels.flags.writeable


def test_large_set_is_read_through_a_memory_map(photos: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = run_import(config_of(photos), store)
    in_memory = open_images(artifact).pixels
    monkeypatch.setattr(imagesets, "IN_MEMORY_BYTES", 100)
    mapped = open_images(artifact).pixels
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, in_memory)
    mapped[:] = 0  # a copy of its own
    np.testing.assert_array_equal(open_images(artifact).pixels, in_memory)


def test_set_of_several_row_groups_keeps_its_order(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagesets, "ROW_GROUP_BYTES", 100 * 3 * 64)
    contents: list[bytes | None] = [png(picture(seed)) for seed in range(650)]
    write_parquet(tmp_path / "d" / "p.parquet", contents)
    artifact = run_import(config_of(tmp_path / "d"), store)
    assert pq.ParquetFile(artifact.path("images.parquet")).num_row_groups == 7
    images = open_images(artifact)
    for seed in (0, 99, 100, 255, 256, 649):
        np.testing.assert_array_equal(images.pixels[seed], np.asarray(picture(seed)).transpose(2, 0, 1))


def test_import_tells_its_progress(tmp_path: Path, store: Store) -> None:
    write_parquet(tmp_path / "p.parquet", [png(picture(0))] * 600)
    listener = Listener()
    run_import(config_of(tmp_path / "p.parquet"), store, observer=listener)
    assert listener.positions == [(256, 600), (512, 600), (600, 600)]


def test_import_that_is_stopped_leaves_nothing(tmp_path: Path, store: Store) -> None:
    write_parquet(tmp_path / "p.parquet", [png(picture(0))] * 600)
    with pytest.raises(Stopped, match="Ctrl-C"):
        run_import(config_of(tmp_path / "p.parquet"), store, observer=Listener(stop_after=1))
    assert store.list() == ()


def test_second_import_reads_nothing(photos: Path, store: Store) -> None:
    config = identify(config_of(photos), store)
    first = run_import(config, store)
    shutil.rmtree(photos)
    assert import_images(context_of(config, store)) == first


def test_broken_images_are_skipped_and_listed(photos: Path, store: Store) -> None:
    content = (photos / "b.jpg").read_bytes()
    (photos / "b.jpg").write_bytes(content[: len(content) // 2])
    listener = Listener()
    artifact = run_import(config_of(photos, max_broken_fraction=0.2), store, observer=listener)
    assert artifact.meta["num_images"] == 5
    assert [image["path"] for image in artifact.meta["broken"]] == ["b.jpg"]
    assert artifact.meta["broken"][0]["reason"]
    assert "b.jpg" not in open_images(artifact).paths
    assert listener.notes[:2] == [
        "candidates: left out: 1 .txt (suffixes that are not read)",
        "import of candidates: skipped 1 of 6 images that cannot be read:",
    ]
    assert listener.notes[2].startswith("  b.jpg: image file is truncated")


def test_too_many_broken_images_are_an_error_that_names_some(photos: Path, store: Store) -> None:
    (photos / "a.png").write_bytes(b"")
    with pytest.raises(InputError) as error:
        run_import(config_of(photos), store)
    assert str(error.value).splitlines() == [
        f"trial.data.candidates: 1 of 6 images of {photos} cannot be read:",
        "  a.png: is empty",
        "1 of 6 is more than trial.data.max_broken_fraction 0.01 allows. Repair or delete them, or raise it",
    ]
    assert store.list() == ()


def import_into(folder: Path, config: TrialConfig, store: Store, listener: Listener) -> None:
    context = context_of(identify(config, store), store, observer=listener)
    import_images(replace(context, folder=folder))


@pytest.mark.parametrize("allowed", [0.01, 1.0])
def test_results_list_all_broken_images_whether_the_import_is_refused_or_not(
    photos: Path, store: Store, tmp_path: Path, allowed: float
) -> None:
    for number in range(12):
        (photos / f"n{number:02}.png").write_bytes(b"no image")
    (photos / "odd\nname.png").symlink_to("/nowhere")
    listener, results = Listener(), tmp_path / "results"
    config = config_of(photos, max_broken_fraction=allowed)
    if allowed == 1:
        import_into(results, config, store, listener)
        shown = listener.notes[2:]
    else:
        with pytest.raises(InputError) as error:
            import_into(results, config, store, listener)
        shown = str(error.value).splitlines()[1:-1]
    listed = [f"n{number:02}.png: is no image that is known" for number in range(12)]
    listed.append("odd\ufffdname.png: is a link to nowhere")
    assert (results / "broken-candidates.txt").read_text("utf-8").splitlines() == listed
    more = ["  and 3 more", f"  all of them: {results / 'broken-candidates.txt'}"]
    assert shown == [f"  {line}" for line in listed[:10]] + more


def test_list_of_broken_images_goes_when_they_are_repaired(photos: Path, store: Store, tmp_path: Path) -> None:
    (photos / "z.png").write_bytes(b"no image")
    import_into(tmp_path, config_of(photos, max_broken_fraction=0.5), store, Listener())
    assert (tmp_path / "broken-candidates.txt").exists()
    (photos / "z.png").unlink()
    import_into(tmp_path, config_of(photos), store, Listener())
    assert not (tmp_path / "broken-candidates.txt").exists()


def test_import_with_the_sha256_of_jpeg_and_png_alone_reads_these_and_says_so(photos: Path, store: Store) -> None:
    sha256 = identify(config_of(photos)).data.candidates.sha256
    before = run_import(config_of(photos), store)
    store.remove()
    picture(7).save(photos / "new.webp")
    listener = Listener()
    after = run_import(with_sha256(config_of(photos), sha256), store, observer=listener)
    assert after.digest == before.digest
    assert after.meta["num_images"] == 6
    assert "left out: 1 .webp: trial.data.candidates.sha256 was taken when" in listener.notes[0]


def test_reasons_are_the_same_in_every_import(photos: Path, store: Store) -> None:
    picture(0).save(photos / "is-gif.jpg", "GIF")
    first = run_import(config_of(photos, max_broken_fraction=1.0), store).meta["broken"]
    store.remove()
    assert run_import(config_of(photos, max_broken_fraction=1.0), store).meta["broken"] == first
    assert first[0]["reason"].startswith("is a GIF, not a JPEG, PNG or WebP")


def test_folder_in_which_nothing_can_be_read_is_an_error_whatever_is_allowed(tmp_path: Path, store: Store) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="1 of 1 image of"):
        run_import(config_of(tmp_path / "photos", max_broken_fraction=1.0), store)


def test_single_image_is_no_collection(photos: Path, store: Store) -> None:
    with pytest.raises(InputError, match="neither a folder nor Parquet"):
        run_import(config_of(photos / "a.png"), store)


def test_identify_names_every_path_that_does_not_exist(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        identify(config_of(tmp_path / "one", tmp_path / "two"))
    assert "trial.data.candidates.path: " in str(error.value)
    assert "trial.data.validation.path: " in str(error.value)


def test_identified_trial_is_the_same_wherever_the_material_lies(photos: Path, tmp_path: Path) -> None:
    before = stages.plan(identify(config_of(photos)))
    shutil.move(photos, tmp_path / "elsewhere")
    after = stages.plan(identify(config_of(tmp_path / "elsewhere")))
    assert [stage.digest for stage in before.values()] == [stage.digest for stage in after.values()]


def with_sha256(config: TrialConfig, sha256: str | None) -> TrialConfig:
    material = Material(path=config.data.candidates.path, sha256=sha256)
    return config.model_copy(update={"data": config.data.model_copy(update={"candidates": material})})


def test_sha256_that_differs_from_the_content_is_refused(photos: Path, store: Store) -> None:
    with pytest.raises(
        InputError, match=rf"trial.data.candidates: .*has content sha256 .*the study file says {SHA256}"
    ):
        identify(with_sha256(config_of(photos), SHA256), store)


def test_with_its_sha256_imported_material_need_not_exist(photos: Path, store: Store) -> None:
    config = config_of(photos)
    artifact = run_import(config, store)
    sha256 = identify(config).data.candidates.sha256
    shutil.rmtree(photos)
    assert run_import(with_sha256(config, sha256), store) == artifact


def test_with_its_sha256_alone_material_that_was_never_imported_is_asked_for(photos: Path, store: Store) -> None:
    config = identify(config_of(photos))
    shutil.rmtree(photos)
    with pytest.raises(InputError, match=r"data.candidates: .*photos: no such file or folder"):
        run_import(config, store)


def test_content_that_changed_since_it_was_identified_is_refused(photos: Path, store: Store) -> None:
    config = identify(config_of(photos))
    picture(9).save(photos / "a.png")
    with pytest.raises(InputError, match="the study file says"):
        import_images(context_of(config, store))


def test_shipped_fashion_images_come_out_bit_for_bit(store: Store) -> None:
    path = SHIPPED / "validation.parquet"
    artifact = run_import(config_of(path, path, num_classes=10, channels=1, image_size_pixels=28), store, "validation")
    images = open_images(artifact)
    rows = pq.read_table(path).slice(0, 50).to_pylist()
    for row, pixels, label in zip(rows, images.pixels, images.required_labels, strict=False):
        np.testing.assert_array_equal(pixels[0], np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))))
        assert label == row["label"]
    assert images.pixels.shape == (2000, 1, 28, 28)
    assert len(np.unique(images.pixel_hashes)) == 2000
    assert artifact.meta["label_names"][0] == "T-shirt/top"
