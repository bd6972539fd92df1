"""The folder that a student is exported into, which another machine can use without this project.

student.onnx, .pt2 or .safetensors    the network
labels.json                           names of the classes, in the order of the logits
preprocessing.json, preprocess.py     how a photo becomes an input, in words and as code
classify.py                           an example in a few lines (for ONNX and torch)
README.md                             the model card
bundle.json                           what this is, with the sha256 of every other file; written last
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from hidfd.config.schema import TrialConfig
from hidfd.data.sources import materials
from hidfd.errors import ConfigError, InputError
from hidfd.export.card import RUNTIMES, CardFacts, StudentOrigin, card
from hidfd.export.comparison import LogitComparison, compare, real_images
from hidfd.export.formats import NETWORK_FILES, Format, check_can_write, open_network, write_network
from hidfd.export.network import deployed_student
from hidfd.export.preprocessing import Preprocessing
from hidfd.export.target import BUNDLE, MAKER, check_target, new_folder
from hidfd.export.weights import StudentShape
from hidfd.formatting import size
from hidfd.git import commit_of
from hidfd.pipeline.graph import plan
from hidfd.store.disk import file_sha256
from hidfd.store.store import Store

LABELS, PREPROCESSING, README = "labels.json", "preprocessing.json", "README.md"
"""Names of files of a bundle."""


@dataclass(frozen=True)
class StudentExport:
    """A student that was exported.

    Attributes:
        folder: with the files.
        format: of the network.
        digest: of the student in the store.
        files: name -> size in bytes.
        compared: the exported network beside the student.
        replaced: the earlier export in the same folder, in words; None where there was none.
    """

    folder: Path
    format: Format
    digest: str
    files: Mapping[str, int]
    compared: LogitComparison
    replaced: str | None

    def in_words(self) -> list[str]:
        """Return lines about what was written and checked."""
        lines = [f"checked: {self.compared.in_words(RUNTIMES[self.format])}"]
        lines += [] if self.replaced is None else [f"replaced: the earlier export there, {self.replaced}"]
        network = NETWORK_FILES[self.format]
        others = ", ".join(name for name in self.files if name != network)
        return [*lines, f"written: {self.folder}: {network} ({size(self.files[network])}), {others}"]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, as `--json` prints it."""
        return {
            "folder": str(self.folder),
            "format": self.format,
            "digest": self.digest,
            "files": dict(self.files),
            "compared": self.compared.to_json(),
            "replaced": self.replaced,
        }


def export_student(
    config: TrialConfig, store: Store, origin: StudentOrigin, *, format_: Format, folder: Path
) -> StudentExport:
    """Export the finished student of a trial into a folder, and check it on real images.

    Args:
        config: with the sha256 of every material.
        store: with the student, its teacher, and images of the trial.
        origin: for the model card.
        format_: of the network.
        folder: new, empty, or with an earlier export, which is replaced; nothing else is.

    Raises:
        ConfigError: a package is missing, or the folder holds something else, or cannot be written to.
        StoreError: the store lacks the student, or images to check it on.
        ExportError: it cannot be converted, or answers otherwise afterwards.
    """
    check_target(folder)
    check_can_write(format_)
    network, digest = deployed_student(config, store), plan(config)["distillation"].digest
    images, split = real_images(config, store)
    shape, preprocessing = StudentShape.of(config, network), Preprocessing.of(config.data)
    made_with = _versions(format_)
    with new_folder(folder) as (temporary, replaced):
        write_network(network, format_, shape, temporary)
        run = open_network(temporary / NETWORK_FILES[format_], format_, config.distillation.code)
        compared = compare(network, run, images, split, RUNTIMES[format_])
        facts = CardFacts(format_, compared, preprocessing, digest, made_with)
        described = preprocessing.to_json(config.data.num_classes, shape.mean, shape.std)
        texts = {
            LABELS: _json(labels_of(config)),
            PREPROCESSING: _json(described),
            **preprocessing.scripts(format_),
            README: card(config, origin, facts),
        }
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        sha256 = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
        bundle = {
            "made_by": MAKER,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "study": origin.study,
            "student": origin.label,
            "digest": digest,
            "format": format_,
            "network": NETWORK_FILES[format_],
            "architecture": shape.to_json(),
            "teacher": {"architecture": config.teacher.architecture, "validation_accuracy": origin.teacher_accuracy},
            "materials": {where: material.sha256 for where, material in materials(config).items()},
            "compared": compared.to_json(),
            "made_with": made_with,
            "sha256": sha256,
        }
        (temporary / BUNDLE).write_text(_json(bundle), encoding="utf-8")
        files = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
    return StudentExport(folder, format_, digest, files, compared, replaced)


def labels_of(config: TrialConfig) -> list[str]:
    """Return the names of the classes in the order of the logits; their numbers where they have no names."""
    return list(config.data.readable_names) or [str(number) for number in range(config.data.num_classes)]


@dataclass(frozen=True)
class StudentBundle:
    """An exported folder, opened.

    Attributes:
        network: path of the network.
        format: of it.
        labels: names of the classes.
        preprocessing: of its images.
    """

    network: Path
    format: Format
    labels: Sequence[str]
    preprocessing: Preprocessing


def open_bundle(folder: Path) -> StudentBundle:
    """Open an exported folder, and check that its network is the one that was exported.

    Raises:
        ConfigError: it is no such folder.
        InputError: a file of it is missing, damaged or changed.
    """
    if not (folder / BUNDLE).is_file():
        raise ConfigError(
            f"{folder}: has no {BUNDLE}; expected a study file, or a folder that `python -m hidfd export` wrote"
        )
    try:
        bundle = json.loads((folder / BUNDLE).read_text(encoding="utf-8"))
        format_ = bundle["format"]
        network = folder / NETWORK_FILES[format_]
        for name in (network.name, LABELS, PREPROCESSING):
            if file_sha256(folder / name) != bundle["sha256"][name]:
                raise InputError(f"{folder / name}: is not the file that was exported; export the student again")
        labels = [str(name) for name in json.loads((folder / LABELS).read_text(encoding="utf-8"))]
        preprocessing = Preprocessing.from_json(json.loads((folder / PREPROCESSING).read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: an incomplete or damaged export ({error}); export the student again") from error
    return StudentBundle(network, format_, labels, preprocessing)


def _versions(format_: Format) -> dict[str, str]:
    packages = ("hidfd", "torch", *(("onnx", "onnxscript", "onnxruntime") if format_ == "onnx" else ()), "pillow")
    commit = commit_of(Path(__file__).parent)
    versions = {name: metadata.version(name) for name in packages}
    return versions if commit is None else versions | {"commit": commit}


def _json(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
