"""Feeding: memory and stream give the same bytes, augmented or not, whatever reads them."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import dataset, pictures
from PIL import Image

from lrexp.config.errors import ConfigError, UserError
from lrexp.data.dataset import Dataset
from lrexp.data.draws import cut
from lrexp.data.feeding import free_bytes, left_by_limits
from lrexp.data.source import Source
from lrexp.data.transforms import Augment


def batches(made: Dataset, epoch: int | None) -> list[torch.Tensor]:
    order = np.random.default_rng(1).permutation(len(made.train))
    parts = [order[:7], order[7:10], order[10:17], order[17:]]
    found = list(made.train.batches(parts, epoch))
    assert [len(images) for images, _ in found] == [7, 3, 7, 7]
    for (_, labels), rows in zip(found, parts, strict=True):
        assert labels.tolist() == (made.train.ids[rows] % 2).tolist()
    return [images for images, _ in found]


@pytest.mark.parametrize(
    ("augment", "workers"), [(None, 0), ("basic", 0), ("trivial", 0), ("basic", 2)]
)
def test_batches_are_the_same_bits_from_memory_and_streamed(
    augment: str | None, workers: int, tmp_path: Path
) -> None:
    """Of `trivial` from workers: test_determinism."""
    source = pictures(tmp_path)
    changes: dict[str, Any] = {"augment": augment and Augment(augment, 3), "workers": workers}
    held = dataset(source, in_memory=True, **changes)
    streamed = dataset(source, in_memory=False, **changes)
    assert (held.mean, held.std) == (streamed.mean, streamed.std)
    for epoch in (1, 2):
        pairs = zip(batches(held, epoch), batches(streamed, epoch), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(held.val.images, streamed.val.images)


def test_all_splits_are_streamed_by_the_same_workers_in_every_epoch(tmp_path: Path) -> None:
    made = dataset(pictures(tmp_path), in_memory=False, workers=2, normalize=([0.5] * 3, [1.0] * 3))
    assert not multiprocessing.active_children()
    batches(made, 1)
    workers = {worker.pid for worker in multiprocessing.active_children()}
    assert len(workers) == 2
    for epoch in (2, 3):
        for split in (made.train_eval, made.val, made.test):
            assert split is not None
            assert torch.equal(split.images, split.images)
        batches(made, epoch)
    next(made.train.in_order(7))  # left before its end
    assert len(batches(made, 4)) == 4
    assert {worker.pid for worker in multiprocessing.active_children()} == workers


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_worker_cannot_read_is_said_in_one_message(workers: int, tmp_path: Path) -> None:
    source = pictures(tmp_path)
    made = dataset(source, in_memory=False, workers=workers, normalize=([0.5] * 3, [1.0] * 3))
    (tmp_path / f"{made.val.ids[0]}.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        made.val.images  # noqa: B018 (reads them)
    assert str(caught.value) == f"data: {tmp_path}/{made.val.ids[0]}.png: is empty (0 bytes)"
    assert len(batches(made, 1)) == 4  # and the others are read as before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_the_same_bytes_as_on_the_cpu(
    in_memory: bool, workers: int, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"augment": Augment("basic", 3), "in_memory": in_memory}
    source, gpu = pictures(tmp_path), torch.device("cuda")
    on_cpu = dataset(source, **changes)
    on_gpu = dataset(source, workers=workers, device=gpu, **changes)
    rows = cut(np.random.default_rng(1).permutation(on_cpu.train.rows), 7)
    pairs = zip(on_cpu.train.pixels.batches(rows), on_gpu.train.pixels.batches(rows), strict=True)
    for ours, theirs in pairs:
        assert theirs.device.type == "cuda"
        assert torch.equal(ours, theirs.cpu())
    order = cut(np.arange(24), 7)
    for epoch in (None, 1):
        for ours, theirs in zip(
            on_cpu.train.batches(order, epoch),
            on_gpu.train.batches(order, epoch),
            strict=True,
        ):
            assert torch.allclose(ours[0], theirs[0].cpu(), atol=1e-6)
            assert torch.equal(ours[1], theirs[1].cpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("augment", [None, Augment("basic", 0)])  # sharpness, of trivial, waits
def test_feeding_never_waits_for_the_gpu_within_an_epoch(
    in_memory: bool, augment: Augment | None, tmp_path: Path
) -> None:
    gpu = torch.device("cuda")
    made = dataset(pictures(tmp_path), in_memory=in_memory, device=gpu, augment=augment)
    parts = cut(np.arange(24), 4)
    list(made.train.batches(parts, 1))  # memory is taken from the driver here
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(made.train.batches(parts, 1))) == 6
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_grey_images_have_the_same_strides_on_both_paths() -> None:
    """Those of sides of 1 too: they decide which kernel of a convolution runs, hence the bits."""
    drawn = np.random.default_rng(0).integers(0, 17, (40, 8, 8, 1), np.uint8).transpose(0, 3, 1, 2)
    source = Source(drawn, np.arange(40) % 2, ("even", "odd"), white=16)
    for augment in (None, Augment("basic", 3)):
        held, streamed = (dataset(source, in_memory=b, augment=augment) for b in (True, False))
        pairs = zip(batches(held, 1), batches(streamed, 1), strict=True)
        assert all(a.stride() == b.stride() for a, b in pairs)


def test_an_array_is_streamed_like_files_and_resized_alike_on_both_paths() -> None:
    drawn = np.random.default_rng(0).integers(0, 17, (40, 1, 8, 8), np.uint8)
    source = Source(drawn, np.arange(40) % 2, ("even", "odd"), white=16).of_size(12)
    held, streamed = (dataset(source, in_memory=b) for b in (True, False))
    assert held.image_shape == streamed.image_shape == (1, 12, 12)
    assert torch.equal(held.train.images, streamed.train.images)
    plain = dataset(Source(drawn, np.arange(40) % 2, ("even", "odd"), white=16))
    assert abs(held.mean[0] - plain.mean[0]) < 0.02  # white is still 1


def test_augmentation_changes_training_batches_and_nothing_else(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    plain, changed = dataset(source), dataset(source, augment=Augment("basic", 0))
    assert not torch.equal(torch.cat(batches(plain, 1)), torch.cat(batches(changed, 1)))
    assert torch.equal(torch.cat(batches(plain, None)), torch.cat(batches(changed, None)))
    order = np.arange(len(plain.val))
    for name in ("train_eval", "val", "test"):
        a, b = (next(getattr(d, name).batches([order[:4]], 1))[0] for d in (plain, changed))
        assert torch.equal(a, b)


def test_statistics_of_the_training_images_are_measured_when_nobody_states_them(
    tmp_path: Path,
) -> None:
    made = dataset(pictures(tmp_path))
    images = made.train.images.double()
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    assert (images.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_of_several_sizes_need_a_size(in_memory: bool, tmp_path: Path) -> None:
    source = pictures(tmp_path)
    Image.new("RGB", (12, 13)).save(tmp_path / "7.png")
    with pytest.raises(UserError, match=r"13×12, other images are 12×12\n.*data\.image_size=N"):
        dataset(source, in_memory=in_memory).val.images  # noqa: B018 (reads them)


def test_only_what_is_chosen_is_read(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    made = dataset(source, limit=4)
    used = {int(i) for s in (made.train, made.val, made.test) for i in s.ids}  # type: ignore[union-attr]
    for i in set(range(40)) - used:
        (tmp_path / f"{i}.png").unlink()
    assert torch.equal(dataset(source, limit=4).train.images, made.train.images)


@pytest.mark.parametrize("in_memory", [True, False])
def test_unreadable_images_are_named_or_left_out_and_counted(
    in_memory: bool, tmp_path: Path
) -> None:
    source = pictures(tmp_path)
    whole = dataset(source)
    broken = [int(whole.train.ids[3]), int(whole.val.ids[0])]
    (tmp_path / f"{broken[0]}.png").write_bytes(b"")
    data = (tmp_path / f"{broken[1]}.png").read_bytes()
    (tmp_path / f"{broken[1]}.png").write_bytes(data[: len(data) // 2])
    if in_memory:
        with pytest.raises(UserError, match=rf"{broken[0]}\.png: .*1 more.*\n.*on_corrupt=drop"):
            dataset(source, in_memory=True)
    else:  # found when it is read, by whoever reads it
        with pytest.raises(UserError, match=rf"{broken[0]}\.png"):
            dataset(source, in_memory=False, normalize=([0.5] * 3, [0.5] * 3)).train.images  # noqa: B018
    made = dataset(source, in_memory=in_memory, drop_corrupt=True)
    assert len(made.train) == len(whole.train) - 1
    assert len(made.val) == len(whole.val) - 1
    assert not {*broken} & {*made.train.ids.tolist(), *made.val.ids.tolist()}
    (note,) = made.notes
    assert note.startswith("left out 2 images that cannot be read: ")
    assert all(f"{i}.png" in note for i in broken)


def test_images_without_a_label_are_named_or_left_out_and_counted(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    labels = source.labels.copy()
    labels[[5, 9]] = -1
    unlabeled = replace(source, labels=labels)
    with pytest.raises(UserError, match=r"5\.png has no label \(and 1 more\)\n.*on_corrupt=drop"):
        dataset(unlabeled)
    made = dataset(unlabeled, drop_unlabeled=True)
    used = np.concatenate([made.train.ids, made.val.ids, made.test.ids])  # type: ignore[union-attr]
    assert sorted(used.tolist()) == [i for i in range(40) if i not in (5, 9)]
    assert made.notes == ("left out 2 images without a label",)
    labels[7] = 2
    with pytest.raises(UserError, match=r"7\.png has label 2, allowed: 0 to 1"):
        dataset(replace(source, labels=labels))


def test_one_class_only_is_refused_and_a_class_without_training_images_said(
    tmp_path: Path,
) -> None:
    source = pictures(tmp_path)
    with pytest.raises(ConfigError, match="every training image is of one class, even"):
        dataset(replace(source, labels=np.zeros(40, np.int64)))
    empty = replace(source, class_names=("even", "odd", "neither"))
    assert dataset(empty).notes == ("1 of 3 classes have no training image: neither",)


def test_copies_in_val_and_test_are_found_before_training_streamed_or_not(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    whole = dataset(source)
    assert whole.test is not None
    original, copy, other = (int(s.ids[0]) for s in (whole.train, whole.val, whole.test))
    for i in (copy, other):
        shutil.copy(tmp_path / f"{original}.png", tmp_path / f"{i}.png")
    for in_memory in (True, False):
        made = dataset(source, in_memory=in_memory, leak_check=True)
        assert made.leaks is not None
        assert made.val.ids[np.isin(made.val.rows, made.leaks.twins["val"])].tolist() == [copy]
        first = made.leaks.lines()[0]
        assert "1 of 8 val images in train, 1 of 8 test images in train" in first
        assert f"{copy}.png = {original}.png" in first


@pytest.mark.parametrize("in_memory", [True, False])
def test_further_test_sets_are_normalised_alike_and_checked_for_leaks(
    in_memory: bool, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    source, more = pictures(tmp_path), pictures(tmp_path / "more", count=6)
    made = dataset(source, in_memory=in_memory, leak_check=True, eval_sets={"more": more})
    split = made.eval_sets["more"]
    assert split.labels.tolist() == [0, 1, 0, 1, 0, 1]
    pixels = np.stack([more.read(i)[0] for i in range(6)])
    for c in range(3):
        expected = (pixels[:, c] / 255 - made.mean[c]) / made.std[c]
        assert np.abs(split.images[:, c].numpy() - expected).max() < 1e-4
    assert made.leaks is not None
    assert {t.split for t in made.leaks.exact} == {"more"}  # its six are the source's first six
    assert sum(len(t.positions) for t in made.leaks.exact) == 6


def test_groups_are_checked_beside_further_test_sets(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    source, more = pictures(tmp_path), pictures(tmp_path / "more", count=6, seed=1)
    torn = replace(source, groups=np.arange(40) % 7, split=np.repeat([0, 1, 2], [20, 10, 10]))
    made = dataset(torn, leak_check=True, eval_sets={"more": more})
    assert made.leaks is not None
    assert {(g.split, g.other) for g in made.leaks.groups} == {
        ("val", "train"), ("test", "train"), ("test", "val")
    }  # fmt: skip
    assert len(made.leaks.twins["val"]) == 10
    assert not len(made.leaks.twins["more"])


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_image_that_breaks_while_streaming_is_one_error_without_a_traceback(
    workers: int, tmp_path: Path
) -> None:
    source = pictures(tmp_path)
    made = dataset(source, in_memory=False, workers=workers, normalize=([0.5] * 3, [0.5] * 3))
    (tmp_path / f"{made.val.ids[3]}.png").write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        made.val.images  # noqa: B018 (reads them)
    assert "Traceback" not in str(caught.value)
    assert str(caught.value).startswith(f"data: {tmp_path}/{made.val.ids[3]}.png: ")


def test_the_fingerprint_is_of_the_pixels_however_they_are_fed(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    held, streamed = (dataset(source, in_memory=b, leak_check=True) for b in (True, False))
    assert held.fingerprint == streamed.fingerprint == dataset(source).fingerprint
    stated = {"normalize": ([0.5] * 3, [0.5] * 3)}
    unread = dataset(source, in_memory=False, **stated)
    assert unread.fingerprint.startswith("labels-")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "augment"),
    [
        *(("digits", augment) for augment in ("none", "basic")),  # trivial needs 256 levels
        *(("cifar", augment) for augment in ("none", "basic", "trivial")),
    ],
)
def test_a_streamed_run_records_the_same_numbers_as_one_in_memory(
    lrexp: Any, data: str, augment: str, tmp_path: Path
) -> None:
    chosen = ["data=digits", "data.limit=200"]
    if data == "cifar":
        folder = Path(os.environ.get("LREXP_TEST_DATA", "/nowhere")) / "cifar10_10k"
        if not folder.is_dir():
            pytest.skip("LREXP_TEST_DATA names no folder with cifar10_10k")
        chosen = ["data=hf", f"data.path={folder}", "data.limit=300", "data.val_fraction=0.02"]
    rows = {}
    for in_memory in ("true", "false"):
        done = lrexp(
            *chosen, f"data.in_memory={in_memory}", f"data.augment={augment}", "logger=none",
            "trainer.epochs=2", f"hydra.run.dir={tmp_path / in_memory}", OMP_NUM_THREADS="1",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / in_memory / "metrics.jsonl").read_text().splitlines()
        rows[in_memory] = [
            {k: v for k, v in json.loads(line).items() if not k.startswith("perf/")}
            for line in lines
        ]
        assert len(rows[in_memory]) == 2
        assert ("streamed by 2 workers" in (tmp_path / in_memory / "lrexp.log").read_text()) is (
            in_memory == "false"
        )
    assert rows["true"] == rows["false"]


def test_memory_is_free_within_the_limits_of_a_container(tmp_path: Path) -> None:
    def group(name: str, limit: str, current: int, cached: int) -> None:
        folder = tmp_path / "groups" / name
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")

    group("job", "1000", 300, 100)
    group("job/step", "max", 200, 0)
    group("job/step/task", "250", 260, 0)
    group("job/other", "1", 1, 0)
    own = tmp_path / "own"
    own.write_text("4:memory:/job/other\n0::/job/step/task\n")
    assert left_by_limits(own, tmp_path / "groups") == [0, 800]
    own.write_text("0::/job/step\n")
    assert left_by_limits(own, tmp_path / "groups") == [800]
    own.write_text("0::/\n")
    assert left_by_limits(own, tmp_path / "groups" / "job") == [800]  # as a container sees it
    assert left_by_limits(tmp_path / "none", tmp_path) == []


def test_free_memory_heeds_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrexp.data.feeding.left_by_limits", lambda *files: [7, 9])
    assert free_bytes(torch.device("cpu")) == 7
    monkeypatch.setattr("lrexp.data.feeding.left_by_limits", lambda *files: [])
    assert free_bytes(torch.device("cpu")) > 2**20
