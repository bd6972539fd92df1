"""A bank of fixed views with the teacher's maps of them: few views that are seen several times.

The teacher answers each view once, and at small budgets students learn more from few views than from as many as there
are steps (docs/experiments.md). A bank is made of blocks, each a pure function of (images, seed, number of the block),
so that a shorter bank is the beginning of a longer one. Blocks are kept in the cache of the artifact that their images
come from, where every student on this machine finds them that asks for the same: real-only finds those of the hybrid.

**Source**: this project.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from hidfd.config.schema import DistillationConfig
from hidfd.data.pixels import uint8_from_unit, unit_from_uint8
from hidfd.distributed.device import Device, free_bytes
from hidfd.distributed.random_streams import Draws, stream
from hidfd.errors import OutOfMemoryError
from hidfd.formatting import memory_size
from hidfd.networks.teacher import Teacher, TeacherOutput
from hidfd.pipeline.graph import digest_of
from hidfd.pipeline.watch import images_done
from hidfd.store.disk import store_errors
from hidfd.views.augmentation import random_resized_crop
from hidfd.views.fresh import crop_fractions
from hidfd.views.mixing import mix, partners
from hidfd.views.sampler import HybridSampler

BLOCK_VIEWS = 250
"""Number of views in a block: those that the teacher answers at once, and mixing partners are of one block."""

FORMAT = 1
"""Version of the blocks in the cache. Raise it when the code makes other views or maps."""


@dataclass(frozen=True)
class ViewSource:
    """Images that views are drawn of.

    Attributes:
        name: `real` or `synthetic`.
        images: `n x c x h x w` uint8 on the CPU.
        cache: folder for the blocks, of the artifact that the images come from; None = they are not kept.
    """

    name: str
    images: Tensor
    cache: Path | None = None


class ViewBank:
    """The first views of each source, at the real share of the student's sampler, and the teacher's maps of them.

    Attributes:
        views: `B x c x s x s` uint8 on the device, real ones first.
        maps: `B x t x h x w` on the device, the teacher's.
        resident: both.
        sampler: chooses views of a batch, each once per pass over the bank.
    """

    def __init__(
        self,
        real: ViewSource | None,
        synthetic: ViewSource | None,
        real_share: float,
        teacher: Teacher,
        settings: DistillationConfig,
        seed: int,
        device: Device,
    ) -> None:
        """Make the bank, or read what the caches have of it.

        Raises:
            OutOfMemoryError: it does not fit into memory.
            Stopped: whoever watches asked for it (`hidfd.pipeline.watch`).
        """
        self.teacher, self.settings, self.seed, self.device = teacher, settings, seed, device
        num_views = min(settings.view_bank, settings.target_images)  # no more than there is time to see
        num_real = round(num_views * real_share)
        counts = {"real": num_real, "synthetic": num_views - num_real}
        sources = [source for source in (real, synthetic) if source is not None and counts[source.name]]
        first = self._block(sources[0], 0)
        self._check_memory(first, num_views)
        self.views = device.images(first["views"].new_empty(num_views, *first["views"].shape[1:]))
        self.maps = torch.empty(
            num_views, *first["maps"].shape[1:], dtype=first["maps"].dtype, device=device.torch_device
        )
        offset = 0
        for source in sources:
            for start, block in self._blocks(source, counts[source.name]):
                end = min(start + BLOCK_VIEWS, counts[source.name])
                self.views[offset + start : offset + end] = block["views"][: end - start].to(device.torch_device)
                self.maps[offset + start : offset + end] = block["maps"][: end - start].to(device.torch_device)
            offset += counts[source.name]
        self.resident = self.views, self.maps
        self.sampler = HybridSampler(counts["real"], counts["synthetic"], 1.0, seed)
        self._num_real = counts["real"]

    def batch(self, images_seen: int) -> tuple[Tensor, TeacherOutput]:
        """Return the views of the next batch, normalised, real ones first, and the teacher's answers of before."""
        real, synthetic = self.sampler.batch(images_seen, self.settings.batch_images)
        index = self.device.processes.part(torch.cat([real, synthetic + self._num_real]))
        index = self.device.put(index)
        feature_map = self.maps[index]
        with self.device.autocast(), torch.no_grad():
            pooled = feature_map.mean(dim=(2, 3))
            answer = TeacherOutput(feature_map, pooled, self.teacher.backbone.classifier(pooled))
        return self.teacher.normalised(unit_from_uint8(self.views[index])), answer

    def _blocks(self, source: ViewSource, count: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Yield the first view's number and the block, until there are `count` views.

        The order is another one in each process, so that two which need the same blocks share the work.
        """
        numbers = list(range(-(-count // BLOCK_VIEWS)))
        random.Random(os.getpid()).shuffle(numbers)  # no result depends on it
        for number in numbers:
            yield number * BLOCK_VIEWS, self._block(source, number)

    def _block(self, source: ViewSource, number: int) -> dict[str, Tensor]:
        """Return a block from the cache, or make it: `views` as uint8 and `maps`, on the CPU."""
        path = None
        if source.cache is not None:
            path = source.cache / f"views-{self._key(source)[:16]}" / f"{number:06d}.safetensors"
            if path.exists():
                try:
                    return safetensors.torch.load_file(path)
                except SafetensorError:  # cut off by a full disk or a power cut: it is made again
                    path.unlink(missing_ok=True)
        block = self._make(source, number)
        if path is not None:
            temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
            with store_errors("writing the bank of views", path):
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    safetensors.torch.save_file(block, temporary)
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)
        return block

    def _key(self, source: ViewSource) -> str:
        """Return the digest of all that the blocks depend on beside the artifact of their images."""
        settings = self.settings
        fractions = dict(zip(("real", "synthetic"), crop_fractions(settings), strict=True))
        return digest_of(
            {
                "format": FORMAT,
                "source": source.name,
                "teacher": self.teacher.digest,
                "image_size_pixels": self.teacher.image_size_pixels,
                "seed": self.seed,
                "crop": [fractions[source.name], settings.crop_scale_min, settings.flip],
                "mix": None if settings.mix == "none" else [settings.mix, settings.mix_fraction],
                "device": [self.device.torch_device.type, self.device.precision],
            }
        )

    @torch.no_grad()
    def _make(self, source: ViewSource, number: int) -> dict[str, Tensor]:
        settings, teacher, device = self.settings, self.teacher, self.device
        order = HybridSampler(len(source.images), 0, 1.0, self.seed, stage=f"distillation/bank/{source.name}")
        index, _ = order.batch(number * BLOCK_VIEWS, BLOCK_VIEWS)
        numbers = stream(self.seed, "distillation", f"bank/{source.name}", number)
        fractions = dict(zip(("real", "synthetic"), crop_fractions(settings), strict=True))
        views = random_resized_crop(
            unit_from_uint8(device.images(source.images[index])),
            teacher.image_size_pixels,
            Draws(numbers),
            scale_min=settings.crop_scale_min,
            flip=settings.flip,
            crop_fraction=fractions[source.name],
        )
        if settings.mix != "none":
            partner = device.put(partners([BLOCK_VIEWS], numbers))
            views = mix(views, views[partner], settings.mix, Draws(numbers), fraction=settings.mix_fraction)
        kept = uint8_from_unit(views)
        with device.autocast():
            maps = teacher(unit_from_uint8(kept)).feature_map
        images_done(BLOCK_VIEWS)
        return {"views": kept.cpu().contiguous(), "maps": maps.cpu().contiguous()}

    def _check_memory(self, block: dict[str, Tensor], num_views: int) -> None:
        """Refuse a bank that does not fit into the memory that is free."""
        of_a_view = sum(tensor.nbytes for tensor in block.values()) / BLOCK_VIEWS
        free = free_bytes(self.device)
        if free is not None and num_views * of_a_view > free:
            raise OutOfMemoryError(
                f"trial.distillation.view_bank: {num_views:,} views with the teacher's maps take "
                f"{memory_size(num_views * of_a_view)}, and {memory_size(free)} are free on "
                f"{'the GPU' if self.device.is_cuda else 'this machine'}; set at most {int(0.8 * free / of_a_view):,}, "
                f"or 0 for views that are drawn anew"
            )
