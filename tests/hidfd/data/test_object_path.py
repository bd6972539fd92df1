"""Materials on S3: the same content as on a disk, few requests, and one clear message where S3 refuses.

The real server is in `tests/integration/test_s3_material.py`; here a folder is the bucket's content.
"""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from hidfd.config import study_file
from hidfd.data import object_path
from hidfd.data.identify import identify, unreadable_materials
from hidfd.data.image_set import open_images
from hidfd.data.object_path import ObjectPath, local_copy, refusal_of
from hidfd.data.readers import _shard_chunks
from hidfd.data.sources import content_sha256, files_of
from hidfd.errors import ConfigError, InputError
from hidfd.stages.imports.images import import_images
from hidfd.store.store import Store
from tests.hidfd.imports import Listener, class_folders, config_of, context_of, picture, png, run_import, write_parquet


class CountingBucket:
    """A file system over a folder that counts what is asked of it, and may refuse."""

    def __init__(self, folder: Path) -> None:
        self._inner = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
        self.asked: Counter[str] = Counter()
        self.refuses: dict[str, Exception] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*arguments: Any, **settings: Any) -> Any:
            is_listing = isinstance(arguments[0], fs.FileSelector)
            key = arguments[0].base_dir if is_listing else arguments[0]
            self.asked["list" if is_listing else name] += 1
            for word, error in self.refuses.items():
                if word in key:
                    raise error
            return getattr(self._inner, name)(*arguments, **settings)

        return ask


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The content of the bucket `photos`."""
    (tmp_path / "s3" / "photos").mkdir(parents=True)
    monkeypatch.setattr(object_path, "bucket_filesystem", lambda bucket: CountingBucket(tmp_path / "s3"))
    return tmp_path / "s3" / "photos"


@pytest.fixture
def asked(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> CountingBucket:
    """The one file system that all paths of a test share."""
    counting = CountingBucket(bucket.parent)
    monkeypatch.setattr(object_path, "bucket_filesystem", lambda bucket: counting)
    return counting


def fill(folder: Path) -> Path:
    """Write nested images of several formats with files that are left out, shards, a list, and weights."""
    class_folders(folder / "nested", "cat", "bee", "ant/deep er")
    (folder / "nested" / ".hidden").mkdir()
    (folder / "nested" / "__MACOSX").mkdir()
    for name in ("nested/.hidden/x.png", "nested/__MACOSX/x.png", "nested/.x.png", "nested/notes.txt"):
        (folder / name).write_bytes(b"no image")
    picture(7).save(folder / "nested" / "cat" / "große Katze #1?.bmp")
    for shard in range(2):
        contents: list[bytes | None] = [png(picture(10 * shard + i)) for i in range(3)]
        write_parquet(folder / "shards" / f"train-{shard:05d}-of-00002.parquet", contents, [0, 1, 2])
    write_parquet(folder / "one.parquet", [png(picture(1))] * 2, [0, 1])
    list_text = "path,label\nnested/cat/x.png,cat\n./nested/bee/x.png,bee\nlists/../nested/gone.png,ant\n"
    (folder / "list.csv").write_text(list_text, encoding="utf-8")
    (folder / "lists").mkdir()
    (folder / "teacher.safetensors").write_bytes(b"weights")
    return folder


MATERIALS = [
    *("nested", "shards", "shards/train-*.parquet", "one.parquet", "list.csv"),
    *("teacher.safetensors", "nested/cat/große Katze #1?.bmp"),
]


@pytest.mark.parametrize("name", MATERIALS)
def test_content_is_that_of_the_same_files_on_a_disk(bucket: Path, tmp_path: Path, name: str) -> None:
    fill(bucket)
    shutil.copytree(bucket, tmp_path / "disk")
    on_s3, on_disk = files_of(f"s3://photos/{name}"), files_of(tmp_path / "disk" / name)
    assert on_s3.names == on_disk.names
    assert on_s3.left_out == on_disk.left_out
    assert content_sha256(f"s3://photos/{name}") == content_sha256(tmp_path / "disk" / name)


@pytest.mark.parametrize("name", ["nested", "shards", "one.parquet", "list.csv"])
def test_import_is_the_same_artifact_as_from_a_disk(bucket: Path, tmp_path: Path, name: str) -> None:
    fill(bucket)
    shutil.copytree(bucket, tmp_path / "disk")
    artifacts = [
        run_import(config_of(path, path, max_broken_fraction=0.5), Store.open(tmp_path / store), "validation")
        for path, store in ((f"s3://photos/{name}/", "a"), (str(tmp_path / "disk" / name), "b"))
    ]
    assert artifacts[0].digest == artifacts[1].digest
    first, second = (open_images(artifact) for artifact in artifacts)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.required_labels.tolist() == second.required_labels.tolist()
    assert first.paths == second.paths
    metas = [{name: value for name, value in a.meta.items() if name != "seconds"} for a in artifacts]
    assert metas[0] == metas[1]


def test_listing_asks_for_no_object_by_itself(bucket: Path, asked: CountingBucket) -> None:
    fill(bucket)
    content_sha256("s3://photos/nested")
    assert asked.asked["list"] == 1
    assert asked.asked["get_file_info"] == 1  # of the folder
    asked.asked.clear()
    assert content_sha256("s3://photos/nested") == content_sha256("s3://photos/nested")
    assert asked.asked["open_input_stream"] == 0  # nothing has changed, so nothing is read again


def test_list_asks_for_the_folders_of_its_images_instead_of_each(bucket: Path, asked: CountingBucket) -> None:
    class_folders(bucket, "ant", "bee")
    for number in range(20):
        picture(number).save(bucket / "ant" / f"{number}.png")
    rows = "".join(f"ant/{number}.png\n" for number in range(20))
    (bucket / "list.csv").write_text(f"path\n{rows}bee/x.png\n", encoding="utf-8")
    content_sha256("s3://photos/list.csv")
    assert (asked.asked["list"], asked.asked["get_file_info"]) == (2, 1)


def test_changed_object_is_hashed_again(bucket: Path) -> None:
    fill(bucket)
    before = content_sha256("s3://photos/nested")
    picture(99).save(bucket / "nested" / "bee" / "x.png")
    assert content_sha256("s3://photos/nested") != before


@pytest.mark.parametrize("labels", [[0, 1, 2], None], ids=["labelled", "unlabelled"])
def test_with_its_sha256_imported_material_is_neither_listed_nor_read(
    bucket: Path, store: Store, asked: CountingBucket, labels: list[int] | None
) -> None:
    columns = {"image": [png(picture(seed)) for seed in range(3)]} | ({"label": labels} if labels else {})
    pq.write_table(pa.table(columns), bucket / "p.parquet")
    listener = Listener()
    role = "validation" if labels else "candidates"
    config = config_of("s3://photos/p.parquet", "s3://photos/p.parquet" if labels else None)
    config = identify(config, store, listener)
    assert listener.notes[0].startswith(
        f"trial.data.candidates: sha256 {config.data.candidates.sha256}; written beside "
    )
    artifacts = [run_import(config, store, name) for name in ("candidates", role)]
    asked.asked.clear()
    config = identify(config, store)
    assert [import_images(context_of(config, store, name)) for name in ("candidates", role)] == artifacts
    assert unreadable_materials(config, store)[0].startswith("trial.teacher.checkpoint: ")  # it has no path
    assert not asked.asked


def test_large_parquet_is_read_in_parts(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pa.table({"image": [png(picture(seed, (64, 64))) for seed in range(300)]})
    pages = {"use_dictionary": False, "write_batch_size": 4, "data_page_size": 1 << 14}
    pq.write_table(images, bucket / "p.parquet", **pages)
    monkeypatch.setattr("hidfd.data.readers.READ_BYTES", 1 << 16)
    sizes: list[int] = []

    class WatchedFile(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            sizes.append(len(content))
            return content

    [shard] = files_of("s3://photos/p.parquet").paths
    with pa.PythonFile(WatchedFile(bucket / "p.parquet"), mode="r") as file:
        monkeypatch.setattr(ObjectPath, "open_seekable", lambda _path: file)
        rows = [len(chunk.names) for chunk in _shard_chunks(shard, "image", None, None, 100, "trial.data.candidates")]
    assert rows == [100, 100, 100]
    assert pq.read_metadata(bucket / "p.parquet").num_row_groups == 1
    assert max(sizes) < (bucket / "p.parquet").stat().st_size / 20


def test_study_file_leaves_addresses_on_s3_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "photos")
    assert trial_of(tmp_path, "s3://${BUCKET}/a b/x-*.parquet") == "s3://photos/a b/x-*.parquet"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3:/photos/nested", "is no path; what lies on S3 is written s3://BUCKET/PREFIX"),
        ("S3://photos/nested", "is no path; what lies on S3 is written s3://BUCKET/PREFIX"),
        ("s3a://photos/nested", "is no path; what lies on S3 is written s3://BUCKET/PREFIX"),
        ("s3://", "names no bucket"),
        ("s3:///nested", "names no bucket"),
        ("s3://KEY:hush@photos/nested", "holds credentials; leave them out, and set AWS_ACCESS_KEY_ID"),
        ("s3://photos/nested?region=eu-west-1", "set AWS_ENDPOINT_URL and AWS_DEFAULT_REGION instead"),
    ],
)
def test_address_that_can_be_nothing_on_s3_is_refused_where_it_is_written(tmp_path: Path, path: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        trial_of(tmp_path, path)
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{tmp_path}/study.yaml:4: trial.data.candidates.path: ")
    assert said in line
    assert "hush" not in line


def trial_of(folder: Path, path: str) -> str | None:
    data = f"  data:\n    candidates: {{path: '{path}'}}\n"
    teacher = f"  teacher:\n    checkpoint: {{sha256: {'a' * 64}}}\n    mean: [0, 0, 0]\n    std: [1, 1, 1]\n"
    (folder / "study.yaml").write_text(f"name: s\ntrial:\n{data}{teacher}", encoding="utf-8")
    return study_file.load(folder / "study.yaml").trial().data.candidates.path


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://elsewhere/nested", "s3://elsewhere/nested: cannot be read (there is no such bucket)"),
        ("s3://photos/nowhere", "s3://photos/nowhere: no such file or folder; expected a folder of images, or Parquet"),
        ("s3://photos/empty", "s3://photos/empty: no images in it; expected "),
        ("s3://photos/shards/valid-*.parquet", "valid-*.parquet: no Parquet file matches; found 2 files (.parquet)"),
        ("s3://photos/nowhere/*.parquet", "nowhere/*.parquet: no such file or folder"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(bucket: Path, path: str, said: str) -> None:
    fill(bucket)
    (bucket / "empty").mkdir()
    with pytest.raises(InputError) as raised:
        files_of(path, "trial.data.candidates.path")
    (line,) = str(raised.value).splitlines()
    assert line.startswith("trial.data.candidates.path: s3://")
    assert said in line


def aws(kind: str, details: str = "No response body.") -> OSError:
    return OSError(f"When getting information for key 'x': AWS Error {kind} during HeadObject operation: {details}")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (aws("ACCESS_DENIED"), "access is denied; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"),
        (aws("INVALID_ACCESS_KEY_ID"), "access is denied; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"),
        (
            aws("NETWORK_CONNECTION", "curlCode: 7, Could not connect to server; Details: after 0 ms"),
            "http://127.0.0.1:9 does not answer: Could not connect to server; AWS_ENDPOINT_URL says where S3 is",
        ),
        (aws("NO_SUCH_BUCKET"), "there is no such bucket"),
        (
            aws("UNKNOWN (HTTP status 301)", "No response body. The bucket is located in 'eu-west-1'.  Hint"),
            "its bucket is in eu-west-1; set AWS_DEFAULT_REGION=eu-west-1",
        ),
        (aws("SLOW_DOWN", "Reduce your request rate"), "S3 says SLOW_DOWN: Reduce your request rate"),
    ],
)
@pytest.mark.parametrize("name", ["nested", "one.parquet", "list.csv", "teacher.safetensors"])
def test_refusal_is_one_line_whatever_is_read(
    bucket: Path, asked: CountingBucket, monkeypatch: pytest.MonkeyPatch, name: str, error: OSError, said: str
) -> None:
    fill(bucket)
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    asked.refuses[name] = error
    with pytest.raises(InputError) as raised:
        files_of(f"s3://photos/{name}", "trial.data.candidates.path")
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"trial.data.candidates.path: s3://photos/{name}: cannot be read ({said}")


def test_refusal_in_the_middle_of_reading_ends_the_import_with_its_reason(
    bucket: Path, store: Store, asked: CountingBucket
) -> None:
    fill(bucket)
    config = identify(config_of("s3://photos/nested"), store)
    asked.refuses["bee/x.png"] = aws("NETWORK_CONNECTION", "curlCode: 28, Timeout was reached")
    with pytest.raises(InputError, match=r"bee/x\.png: cannot be read \(.* does not answer: Timeout was reached"):
        import_images(context_of(config, store))
    shards = identify(config_of("s3://photos/shards"), store)
    asked.refuses["00001-of"] = aws("ACCESS_DENIED")
    with pytest.raises(InputError, match=r"train-00001-of-00002\.parquet: cannot be read \(access is denied"):
        import_images(context_of(shards, store))


def test_object_that_is_gone_since_it_was_listed_counts_as_broken(
    bucket: Path, store: Store, asked: CountingBucket
) -> None:
    fill(bucket)
    config = identify(config_of("s3://photos/nested", max_broken_fraction=0.5), store)
    asked.refuses["bee/x.png"] = FileNotFoundError("Path does not exist 'photos/nested/bee/x.png'")
    broken = import_images(context_of(config, store)).meta["broken"]
    assert broken == [{"path": "bee/x.png", "reason": "is not there any more"}]


def test_list_on_a_disk_of_images_on_s3_is_told_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\ns3://photos/a.png\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"list\.csv: lists images on S3; put it there too"):
        files_of(tmp_path / "list.csv")


def test_list_may_name_whole_addresses_but_nothing_outside_of_its_bucket(bucket: Path, store: Store) -> None:
    fill(bucket)
    (bucket / "list.csv").write_text("path\ns3://photos/nested/cat/x.png\n", encoding="utf-8")
    assert run_import(config_of("s3://photos/list.csv"), store).meta["num_images"] == 1
    (bucket / "list.csv").write_text("path\n../../etc/x.png\n", encoding="utf-8")
    with pytest.raises(InputError, match="leads out of its bucket"):
        content_sha256("s3://photos/list.csv")
    (bucket / "list.csv").write_text("path\ns3://others/x.png\n", encoding="utf-8")
    with pytest.raises(InputError, match="leads out of its bucket"):
        content_sha256("s3://photos/list.csv")


def test_copy_of_an_object_lives_as_long_as_its_block_and_messages_name_the_object(bucket: Path) -> None:
    fill(bucket)
    with local_copy("s3://photos/teacher.safetensors") as copy:
        assert (copy.name, copy.read_bytes()) == ("teacher.safetensors", b"weights")
    assert not copy.exists()
    with (
        pytest.raises(InputError, match=r"^s3://photos/teacher\.safetensors: damaged$"),
        local_copy("s3://photos/teacher.safetensors") as copy,
    ):
        raise InputError(f"{copy}: damaged")
    with pytest.raises(InputError, match=r"s3://photos/gone\.pt: cannot be read \(there is no such object\)"):
        local_copy("s3://photos/gone.pt").__enter__()


def test_error_that_is_none_of_s3s_is_not_taken_for_one() -> None:
    assert refusal_of(OSError("Couldn't deserialize thrift")) is None


def test_damaged_parquet_on_s3_is_called_damaged(bucket: Path, store: Store) -> None:
    pq.write_table(pa.table({"image": [b"x"] * 100}), bucket / "p.parquet")
    content = (bucket / "p.parquet").read_bytes()
    (bucket / "p.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        run_import(config_of("s3://photos/p.parquet"), store)
