"""Labels are mapped to the teacher's classes by name, and names that match no class are refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.data.identify import identify
from hidfd.data.image_set import open_images
from hidfd.data.label_names import matches
from hidfd.errors import InputError
from hidfd.pipeline.graph import plan
from hidfd.store.store import Store
from tests.hidfd.imports import Listener, class_folders, config_of, picture, png, run_import


def labelled_parquet(path: Path, labels: list[int], names: list[str] | None) -> Path:
    """Write one image for each label, with a `ClassLabel` of these names."""
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    images = [{"bytes": png(picture(seed)), "path": None} for seed in range(len(labels))]
    table = pa.table({"image": images, "label": labels})
    if names is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "pool", "p")


def trial(pool: Path, validation: Path, class_names: Any = (), **data: Any) -> TrialConfig:
    names = class_names if isinstance(class_names, dict) else list(class_names)
    return config_of(pool, validation, class_names=names, **data)


def imported(config: TrialConfig, store: Store, role: str = "validation") -> tuple[list[int], list[str]]:
    """Return the imported labels by image, and what the import said."""
    observer = Listener()
    return open_images(run_import(config, store, role, observer)).required_labels.tolist(), observer.notes


def test_folders_are_mapped_to_the_order_of_the_class_names_and_it_is_said(
    pool: Path, tmp_path: Path, store: Store
) -> None:
    folders = class_folders(tmp_path / "v", "ant", "bee", "cat")
    labels, notes = imported(trial(pool, folders, ["cat", "ant", "bee"]), store)
    assert labels == [1, 2, 0]
    said = "validation: labels are mapped to the teacher's classes by name (their order is another one): "
    assert notes == [f"{said}ant 0 -> 1, bee 1 -> 2, cat 2 -> 0"]


def test_a_class_without_images_is_said(pool: Path, tmp_path: Path, store: Store) -> None:
    folders = class_folders(tmp_path / "v", "ant", "bee")
    _, notes = imported(trial(pool, folders, ["ant", "bee", "cat"]), store)
    assert notes == ["validation: labels are mapped to the teacher's classes by name (1 class has no images)"]


def test_folder_that_is_a_number_is_told_from_the_number_of_its_label(pool: Path, tmp_path: Path, store: Store) -> None:
    folders = class_folders(tmp_path / "v", "10", "8", "9")
    labels, notes = imported(trial(pool, folders, {"8": "ant", "9": "bee", "10": "cat"}), store)
    assert labels == [2, 0, 1]
    assert "'10' (label 0) -> 2, '8' (label 1) -> 0, '9' (label 2) -> 1" in notes[0]


def test_parquet_is_mapped_by_its_class_label(pool: Path, tmp_path: Path, store: Store) -> None:
    file = labelled_parquet(tmp_path / "v.parquet", [0, 2, 1, 0], ["cat", "Ant", "honey bee"])
    config = trial(pool, file, ["ant", "honey_bee", "cat"])
    labels, notes = imported(config, store)
    assert labels == [2, 1, 0, 2]
    assert "cat 0 -> 2, Ant 1 -> 0, honey bee 2 -> 1" in notes[0]


def test_only_a_mapping_that_is_no_identity_is_in_digests(pool: Path, tmp_path: Path, store: Store) -> None:
    folders = class_folders(tmp_path / "v", "ant", "bee", "cat")
    plain = plan(identify(trial(pool, folders, ["ant", "bee", "cat"]), store))
    unnamed = plan(identify(trial(pool, folders), store))
    mapped = plan(identify(trial(pool, folders, ["cat", "bee", "ant"]), store))
    assert "label_order" not in plain["validation"].identity["settings"]
    assert {role: stage.digest for role, stage in plain.items()} == {r: stage.digest for r, stage in unnamed.items()}
    assert mapped["validation"].identity["settings"]["label_order"] == [2, 1, 0]
    differing = {role for role in plain if plain[role].digest != mapped[role].digest}
    assert {"validation", "collection", "evaluation"} <= differing
    assert not {"candidates", "teacher"} & differing


def test_folders_get_readable_names(pool: Path, tmp_path: Path, store: Store) -> None:
    folders = class_folders(tmp_path / "v", "n01440764", "n01443537", "n02")
    names = {"n02": "hen", "n01443537": "goldfish", "n01440764": "tench"}
    config = identify(trial(pool, folders, names), store)
    assert config.data.readable_names == ("hen", "goldfish", "tench")
    assert imported(config, store)[0] == [2, 1, 0]
    readable = class_folders(tmp_path / "r", "goldfish", "hen", "tench")
    assert imported(trial(pool, readable, names), store)[0] == [1, 0, 2]


def test_class_name_that_is_given_twice_is_said(pool: Path, tmp_path: Path, store: Store) -> None:
    folders = class_folders(tmp_path / "v", "ant", "bee", "cat")
    with pytest.raises(InputError, match=r"match no class: bee, cat \(the same name for several classes: bee\)"):
        identify(trial(pool, folders, ["ant", "bee", "bee"]), store)


@pytest.mark.parametrize("names", [["ant", "bee", "dog"], {"ant": "a", "bee": "b", "dog": "c"}, ["x", "y", "z"]])
def test_names_that_match_no_class_are_refused_with_both_lists(
    pool: Path, tmp_path: Path, store: Store, names: Any
) -> None:
    folders = class_folders(tmp_path / "v", "ant", "bee", "cat")
    with pytest.raises(InputError) as refused:
        identify(trial(pool, folders, names), store)
    text = str(refused.value)
    assert re.search(r"trial.data.validation: names of its labels match no class: .*cat\n", text)
    for number, (left, right) in enumerate(zip(names, ("ant", "bee", "cat"), strict=True)):
        assert re.search(rf"^  {number}  {left} +{right}$", text, re.MULTILINE)
    assert "trial.data.class_names: {" in text
    assert "trial.data.validation.label_order" in text
    assert store.list() == ()


def test_class_names_may_have_classes_without_images(pool: Path, tmp_path: Path, store: Store) -> None:
    folders = class_folders(tmp_path / "v", "bee", "cat")
    assert imported(trial(pool, folders, ["cat", "ant", "bee"]), store)[0] == [2, 0]


def test_folders_that_are_numbers_stay_numbers(pool: Path, tmp_path: Path, store: Store) -> None:
    folders = class_folders(tmp_path / "v", *(str(number) for number in range(12)))
    words = [f"word {number}" for number in range(12)]
    for names in ((), words, {word: word for word in words}):
        labels, notes = imported(trial(pool, folders, names, num_classes=12), store)
        assert labels == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]  # in the order of the files
        assert notes == []


def test_numbers_that_the_class_names_list_are_names(pool: Path, tmp_path: Path, store: Store) -> None:
    folders = class_folders(tmp_path / "v", "1", "2", "3")
    named = identify(trial(pool, folders, {1: "rose", 2: "tulip", 3: "lily"}), store)
    assert imported(named, store)[0] == [0, 1, 2]
    assert identify(named, store) == named
    with pytest.raises(InputError, match=r"class folder 3, outside 0..2; .* trial.data.class_names"):
        imported(trial(pool, folders), store)
    zero_based = class_folders(tmp_path / "z", "0", "1", "2")
    with pytest.raises(InputError, match="are numbers of classes, and mean others there"):
        imported(trial(pool, zero_based, ["2", "0", "1"]), store)


def test_numbers_as_class_label_are_the_numbers_of_classes(pool: Path, tmp_path: Path, store: Store) -> None:
    names = sorted(str(number) for number in range(11))  # as a folder of images becomes a data set on the hub
    file = labelled_parquet(tmp_path / "v.parquet", [0, 1, 2, 10], names)
    assert imported(trial(pool, file, num_classes=11), store)[0] == [0, 1, 10, 9]
    ratings = labelled_parquet(tmp_path / "r.parquet", [0, 1, 2], ["1", "2", "3"])
    assert imported(trial(pool, ratings), store)[0] == [0, 1, 2]


def test_without_class_names_the_folders_name_the_classes(pool: Path, tmp_path: Path, store: Store) -> None:
    folders = class_folders(tmp_path / "v", "cat", "ant", "bee")
    config = identify(trial(pool, folders), store)
    assert config.data.readable_names == ("ant", "bee", "cat")
    assert identify(trial(pool, class_folders(tmp_path / "n", "0", "1", "2")), store).data.readable_names == ()


def test_splits_are_held_against_each_other(pool: Path, tmp_path: Path, store: Store) -> None:
    folders = class_folders(tmp_path / "v", "ant", "bee", "cat")
    test = labelled_parquet(tmp_path / "t.parquet", [0, 1, 2], ["cat", "bee", "ant"])
    config = trial(pool, folders, test={"path": str(test)})
    assert imported(config, store, "test")[0] == [2, 1, 0]
    assert imported(config, store, "validation")[0] == [0, 1, 2]
    other = labelled_parquet(tmp_path / "o.parquet", [0, 1, 2], ["cat", "bee", "owl"])
    said = r"(?s)trial.data.test: names of its labels match no class: owl.*trial.data.validation +trial.data.test\n"
    with pytest.raises(InputError, match=said):
        identify(with_values(config, {"data.test": {"path": str(other)}}), store)


def test_mapping_is_known_without_the_files(pool: Path, tmp_path: Path, store: Store) -> None:
    folders = class_folders(tmp_path / "v", "ant", "bee", "cat")
    config = identify(trial(pool, folders, ["cat", "ant", "bee"]), store)
    digest = run_import(config, store, "validation").digest
    shutil.rmtree(folders)
    assert config.data.validation is not None
    known = {"data.validation": {"sha256": config.data.validation.sha256}}
    assert plan(identify(with_values(config, known), store))["validation"].digest == digest
    assert identify(config, store) == config
    other = identify(with_values(config, known | {"data.class_names": ["bee", "ant", "cat"]}), store)
    assert other.data.validation is not None
    assert other.data.validation.label_order == (1, 0, 2)


def test_names_of_a_split_are_found_beside_a_damaged_manifest_of_another_import(
    pool: Path, tmp_path: Path, store: Store
) -> None:
    folders = class_folders(tmp_path / "v", "ant", "bee", "cat")
    config = identify(trial(pool, folders, ["cat", "ant", "bee"]), store)
    run_import(config, store, "validation")
    candidates = run_import(config, store, "candidates")
    (Path(store.uri) / "import" / candidates.digest / "manifest.json").write_text("{")
    shutil.rmtree(pool)
    assert config.data.validation is not None
    changes = {
        "data.candidates": {"sha256": "f" * 64},
        "data.validation": {"sha256": config.data.validation.sha256},
        "data.class_names": ["bee", "ant", "cat"],
    }
    found = identify(with_values(config, changes), store).data.validation
    assert found is not None
    assert found.label_order == (1, 0, 2)


def test_order_may_be_stated_where_names_do_not_say_it(pool: Path, tmp_path: Path, store: Store) -> None:
    file = labelled_parquet(tmp_path / "v.parquet", [0, 1, 2], None)
    stated = with_values(trial(pool, file), {"data.validation.label_order": [2, 0, 1]})
    assert imported(stated, store)[0] == [2, 0, 1]
    same = with_values(trial(pool, file), {"data.validation.label_order": [0, 1, 2]})
    assert plan(identify(same))["validation"].digest == plan(identify(trial(pool, file)))["validation"].digest
    folders = class_folders(tmp_path / "f", "ant", "bee", "cat")
    unlike = trial(pool, folders, ["x", "y", "z"])
    assert imported(with_values(unlike, {"data.validation.label_order": [1, 2, 0]}), store)[0] == [1, 2, 0]
    contradicted = with_values(trial(pool, folders, ["cat", "bee", "ant"]), {"data.validation.label_order": [0, 2, 1]})
    with pytest.raises(InputError, match=r"validation.label_order: \[0, 2, 1\], but by their names .* \[2, 1, 0\]"):
        identify(contradicted, store)


def test_shards_of_one_split_that_name_their_labels_differently_are_refused(pool: Path, tmp_path: Path) -> None:
    labelled_parquet(tmp_path / "v" / "a.parquet", [0], ["ant", "bee", "cat"])
    labelled_parquet(tmp_path / "v" / "b.parquet", [0], ["bee", "ant", "cat"])
    with pytest.raises(InputError, match=r"b.parquet: its labels have other names, or another order, than those of a"):
        identify(trial(pool, tmp_path / "v"))


@pytest.mark.parametrize(
    ("names", "classes", "expected"),
    [
        (["T-shirt/top", "Shirt", "Ankle boot"], ["shirt", "boot", "t-shirt"], [2, 0, 1]),
        (["tench, Tinca tinca", "hen"], ["hen", "tench"], [1, 0]),
        (["C++", "c", "C#"], ["c#", "c", "c++"], [2, 1, 0]),
        (["crane", "crane"], ["Crane", "crane"], [0, 1]),
        (["crane", "dog"], ["crane", "crane"], [None, None]),
        (["fire truck", "dump truck"], ["truck", "car"], [None, None]),
        (["?", "!"], ["!", "?"], [1, 0]),
        (["a", "b", "c"], ["a", "b"], [0, 1, None]),
    ],
)
def test_names_match_however_they_are_written_but_never_by_a_guess(
    names: list[str], classes: list[str], expected: list[int | None]
) -> None:
    assert matches(names, classes) == expected
