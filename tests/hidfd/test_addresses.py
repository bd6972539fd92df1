"""Addresses of SQLite files in folders of any name, as SQLAlchemy and this project read them."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from sqlalchemy.engine import make_url

from hidfd.addresses import arrow_file, path_at, sqlite_address
from hidfd.networks.weights import load_safetensors

NAMES = ["plain", "which #1?", "my%20study", "my study", "a'b\"c", "x{0}&y=z", "100%", "?a=b", "[/red]", "über→"]


@pytest.mark.parametrize("name", NAMES)
def test_address_of_a_file_leads_sqlalchemy_and_ourselves_to_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "mlflow.db"
    address = sqlite_address(path)
    assert make_url(address).database == str(path)
    assert path_at(address) == path


@pytest.mark.parametrize("name", [name for name in NAMES if name != "?a=b"])
def test_path_may_be_pasted_behind_the_scheme(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    assert path_at(f"sqlite:///{folder}/mlflow.db") == folder / "mlflow.db"
    assert path_at(str(folder / "ledger.db")) == folder / "ledger.db"
    assert path_at(f"file://{folder}", "file://") == folder


def test_encoded_address_of_a_folder_that_exists_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "my study").mkdir()
    assert path_at(f"sqlite:///{tmp_path}/my%20study/mlflow.db") == tmp_path / "my study" / "mlflow.db"
    assert path_at(f"sqlite:///{tmp_path}/mlflow.db?timeout=20") == tmp_path / "mlflow.db"


def test_address_that_needs_no_encoding_has_none() -> None:
    assert sqlite_address(Path(".hidfd/mlflow.db")) == "sqlite:///.hidfd/mlflow.db"


def test_name_that_is_not_utf8_comes_back_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"b\xffd") / "ledger.db"
    assert path_at(sqlite_address(path)) == path


def test_tables_and_weights_are_written_and_read_in_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"b\xffd")
    folder.mkdir()
    pq.write_table(pa.table({"a": [1, 2]}), arrow_file(folder / "a.parquet", "wb"))
    assert pq.read_table(arrow_file(folder / "a.parquet")).num_rows == 2
    safetensors.torch.save_file({"w": torch.ones(3)}, folder / "w.safetensors")
    assert load_safetensors(folder / "w.safetensors")["w"].tolist() == [1.0, 1.0, 1.0]
