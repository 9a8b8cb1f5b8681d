"""A table of what a run says of new images, and the verb that writes it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from image_runs import CLASSES, predictions_of, write_pictures

from lrexp.__main__ import main
from lrexp.config.errors import UserError
from lrexp.data.preprocessing import Preprocessing, Transform
from lrexp.use.predict import find_images, predict, refuse_channels, refuse_out

pytestmark = pytest.mark.usefixtures("one_thread")
Said = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(file: Path) -> Any:
    """A table as a frame of pandas, scores as float32."""
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file).to_pandas()
    return pyarrow.csv.read_csv(file).to_pandas()


def scores_in(table: Any) -> np.ndarray:
    return table.filter(like="score_").to_numpy().astype(np.float32)


@pytest.mark.parametrize("name", ["own.csv", "own.parquet"])
def test_own_test_images_get_the_runs_own_predictions_to_the_last_digit(
    name: str, image_run: Path, here: Path, capsys: Said
) -> None:
    rows = predictions_of(image_run / "run")
    listed = here / "new.csv"
    listed.write_text("path\n" + "".join(f"{item}\n" for item in rows["item"]))
    run = str(image_run / "run")
    assert main(["predict", run, "new.csv", "--device", "cpu", "--out", name]) == 0
    found, own = read(here / name), np.stack(rows.scores)
    assert list(found.columns) == ["file", "label", "score", *(f"score_{c}" for c in CLASSES)]
    assert found["file"].tolist() == rows["item"].tolist()
    assert np.array_equal(scores_in(found), own)
    assert found.label.tolist() == [CLASSES[i] for i in own.argmax(1)]
    assert len(set(found.label)) > 1
    assert np.array_equal(found.score.to_numpy().astype(np.float32), own.max(1))
    said = capsys.readouterr().out
    first = re.escape(rows["item"].iloc[0])
    assert re.search(rf"^said   {first} +{own[0].max():.3f}  {found.label[0]}$", said, re.MULTILINE)
    assert f"table  {name}: {len(rows)} images\n" in said
    other = predict_with(image_run, here / "other.csv", listed, batch=2)
    np.testing.assert_allclose(scores_in(other), own, atol=1e-5)
    assert other.label.tolist() == found.label.tolist()


def predict_with(image_run: Path, out: Path, listed: Path, batch: int) -> Any:
    from lrexp.use.trained import load_trained

    predict(load_trained(image_run / "run", "cpu"), find_images([str(listed)]), out, batch)
    return read(out)


def test_what_cannot_be_read_is_listed_and_left_out(
    image_run: Path, here: Path, capsys: Said
) -> None:
    write_pictures(here / "new", each=5)
    (here / "new/ash/2.png").write_bytes(b"")
    (here / "new/notes.txt").write_text("of the photographer")
    assert main(["predict", str(image_run / "run"), "new", "--batch", "4"]) == 1
    said = capsys.readouterr().out
    assert "note   new: passed over 1 as no images (1 .txt): notes.txt\n" in said
    assert "note   converted: grey to RGB 3, palette 3, " in said
    assert "left out 1 that cannot be read:\n  new/ash/2.png: is empty (0 bytes)\n" in said
    found = read(here / "predictions.csv")
    wanted = [f"new/{name}/{i}.png" for name in CLASSES for i in range(5)]
    wanted.remove("new/ash/2.png")
    assert found["file"].tolist() == wanted
    counts = found.label.value_counts()
    assert f"said   {counts.index[0]} {counts.iloc[0]}" in said
    assert main(["predict", str(image_run / "run"), "new"]) == 2
    assert "predictions.csv is there already" in capsys.readouterr().err
    run = str(image_run / "run")
    assert main(["predict", run, "new/ash/0.png", "--overwrite"]) == 0
    assert len(read(here / "predictions.csv")) == 1
    assert main(["predict", run, "new/ash/2.png", "--overwrite"]) == 2
    assert "none of 1 images can be read" in capsys.readouterr().err
    assert len(read(here / "predictions.csv")) == 1  # what was there stays
    assert [p.name for p in here.iterdir() if p.name.startswith(".")] == []


def test_images_are_found_in_files_folders_and_lists(here: Path) -> None:
    write_pictures(here / "photos", each=1)
    (here / "lists").mkdir()
    (here / "lists/a.tsv").write_text("filename\tnote\n../photos/ash/0.png\tx\nb.png\t\n")
    found = find_images(["photos", "lists/a.tsv", "photos/ash/0.png"])
    assert found.names == [
        *(f"photos/{name}/0.png" for name in CLASSES),
        *("../photos/ash/0.png", "b.png", "photos/ash/0.png"),
    ]
    assert found.files[3:] == ["lists/../photos/ash/0.png", "lists/b.png", "photos/ash/0.png"]
    assert found.notes == ["lists/a.tsv: read column filename as path"]


@pytest.mark.parametrize(
    ("word", "text", "said"),
    [
        ("photo", None, "there is no photo\n  did you mean photos?"),
        ("empty", None, "no image in empty"),
        ("a.csv", "name,age\nx.png,3\n", "call the column of paths `path`; its columns: name, age"),
        ("a.csv", "path,age\n,3\n", "line 2: path names no image"),
        ("a.csv", "path\n", "lists no images"),
    ],
)
def test_words_without_images_are_refused(
    word: str, text: str | None, said: str, here: Path
) -> None:
    (here / "photos").mkdir()
    (here / "empty").mkdir()
    if text is not None:
        (here / word).write_text(text)
    with pytest.raises(UserError) as refused:
        find_images([word])
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("a.json", "a name that ends in .csv or .parquet"),
        ("no/a.csv", "there is no folder no"),
        ("folder.csv", "is a folder"),
        ("there.csv", "--overwrite replaces it"),
    ],
)
def test_a_table_is_written_where_it_can_be(out: str, said: str, here: Path) -> None:
    (here / "folder.csv").mkdir()
    (here / "there.csv").touch()
    with pytest.raises(UserError, match=said):
        refuse_out(Path(out), overwrite=False)
    with pytest.raises(UserError, match="cannot be written to"):
        refuse_out(Path("/proc/a.csv"), overwrite=False)
    refuse_out(Path("there.csv"), overwrite=True)
    refuse_out(Path("new.csv"), overwrite=False)


def test_a_network_of_other_channels_takes_no_files() -> None:
    with pytest.raises(UserError, match="have 4 channels"):
        refuse_channels(Preprocessing((4, 8, 8), (0.5,) * 4, (0.2,) * 4))


def test_of_several_labels_those_above_a_half_are_said(here: Path, image_run: Path) -> None:
    """Sigmoids, and cells that no spreadsheet takes for a formula."""
    write_pictures(here / "new", each=1)
    (here / "new/ash/0.png").rename(here / "=1+1.png")
    (here / "new/cedar/0.png").rename(here / "new/cedar/\udcff.png")
    answers = torch.tensor([[0.9, 0.2, 0.6], [0.1, 0.2, 0.3], [0.51, 0.5, 0.49]])
    preprocessing = Preprocessing((3, 4, 4), (0.5,) * 3, (0.2,) * 3)
    settings = SimpleNamespace(eval_batch_size=8)
    run: Any = SimpleNamespace(
        class_names=("a", "b", "c"),
        multi_label=True,
        preprocessing=preprocessing,
        transform=Transform(preprocessing, torch.device("cpu")),
        config=SimpleNamespace(trainer=settings, data=SimpleNamespace(workers=0)),
        scores=lambda images: answers[: len(images)],
    )
    done = predict(run, find_images(["=1+1.png", "new"]), here / "out.csv")
    found = read(here / "out.csv")
    assert found["file"].tolist()[0] == "'=1+1.png"
    predict(run, find_images(["=1+1.png"]), here / "out.parquet")
    assert read(here / "out.parquet")["file"].tolist() == ["=1+1.png"]  # no spreadsheet reads it
    assert found["file"].tolist()[2] == r"new/cedar/\xff.png"
    assert found.label.fillna("").tolist() == ["a|c", "", "a"]
    assert np.array_equal(scores_in(found), answers.numpy())
    assert found.score.astype(np.float32).tolist() == answers.max(1).values.tolist()
    assert done.said == {"a": 2, "c": 1, "none": 1}
