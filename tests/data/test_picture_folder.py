"""Pictures in folders and tables, written by the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedlama.data.picture_folder import PictureFolder
from fedlama.errors import ConfigError, DataError
from fedlama.experiment import prepare, resolve


def draw(path: Path, value: int, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, 3) if mode == "RGB" else size
    Image.fromarray(np.full(shape, value, dtype=np.uint8), mode=None).save(path)


def load(path: Path, **settings: Any) -> Any:  # noqa: ANN401
    return PictureFolder(path=path, **settings).load()


def test_a_folder_for_each_class_and_part(tmp_path: Path) -> None:
    for part, cats, dogs in (("train", (1, 2), (3,)), ("test", (4,), (5,))):
        for value in cats:
            draw(tmp_path / part / "cat" / f"{value}.png", value)
        for value in dogs:
            draw(tmp_path / part / "dog" / "deeper" / f"{value}.PNG", value, mode="L")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "train" / ".cache").mkdir()
    data = load(tmp_path)
    assert data.train_x.shape == (3, 3, 4, 4)
    assert data.train_x.dtype == torch.uint8
    assert data.train_x[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert data.train_y.tolist() == [0, 0, 1]
    assert data.test_x[:, 2, 3, 3].tolist() == [4, 5]
    assert data.class_names == ("cat", "dog")
    assert load(tmp_path, grey=True, size=2).train_x.shape == (3, 1, 2, 2)


def test_a_share_of_every_class_is_held_out_and_groups_are_folders(tmp_path: Path) -> None:
    for hospital, ill, well in (("bonn", 10, 20), ("ulm", 4, 6)):
        for name, count in (("ill", ill), ("well", well)):
            for number in range(count):
                draw(tmp_path / hospital / name / f"{number:02}.png", number, (8, 8))
    data = load(tmp_path, layout="group/class", size=4, test_share=0.1)
    assert data.group_names == ("bonn", "ulm")
    assert np.bincount(data.test_groups.numpy()).tolist() == [3, 1]
    assert data.class_names == ("ill", "well")
    flat = load(tmp_path / "bonn", size=4, test_share=0.2)
    assert np.bincount(flat.test_y.numpy()).tolist() == [2, 4]
    assert flat.groups is None
    own = resolve(
        {
            "data": {"name": "pictures", "path": str(tmp_path), "layout": "group/class", "size": 6},
            "partition": {"name": "natural"},
            "batch_size": 4,
        }
    )
    assert len(prepare(own).clients) == 2
    assert prepare(own).dataset.train_x.shape[2:] == (6, 6)


def test_a_table_names_files_classes_groups_and_parts(tmp_path: Path) -> None:
    for number in range(4):
        draw(tmp_path / "all" / f"{number}.png", number)
    rows = "all/2.png,b,h1,train\nall/0.png,a,h2,test\nall/1.png,b,h2,train\nall/3.png,a,h1,skip\n"
    (tmp_path / "rows.csv").write_text(f"file,label,ward,part\n{rows}")
    data = load(tmp_path, table=tmp_path / "rows.csv", group="ward", split="part")
    assert data.train_x[:, 0, 0, 0].tolist() == [2, 1]
    assert data.train_y.tolist() == [1, 1]
    assert data.test_y.tolist() == [0]
    assert data.groups.tolist() == [0, 1]
    (tmp_path / "rows.csv").write_text("file,label\nall/2.png,b\nall/9.png,a\n")
    with pytest.raises(DataError, match=r"rows\.csv, line 3: .*9\.png is missing \(1 such rows\); correct the paths"):
        load(tmp_path, table=tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"no column 'klass', which data\.label names"):
        load(tmp_path, table=tmp_path / "rows.csv", label="klass")


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing, expected the folder of the pictures"):
        load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="has no sub-folders, expected a sub-folder for each class"):
        load(tmp_path)
    draw(tmp_path / "cat" / "1.png", 1)
    with pytest.raises(DataError, match="all pictures are of the class cat, so there is nothing to learn"):
        load(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="dog holds no pictures"):
        load(tmp_path)
    draw(tmp_path / "dog" / "1.png", 1, (4, 6))
    with pytest.raises(DataError, match="no group has two rows, so none can be held out for testing"):
        load(tmp_path)
    draw(tmp_path / "cat" / "2.png", 1)
    with pytest.raises(DataError, match=r"dog/1\.png has 4 x 6 pixels, but .*cat/\d\.png has 4 x 4; set data\.size"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"cat/\d\.png has 4 x 4 pixels, fewer than 5"):
        load(tmp_path, size=5)
    (tmp_path / "dog" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"dog/1\.png cannot be read as a picture"):
        load(tmp_path, size=2)
    with pytest.raises(ConfigError, match="group names a column, but there is no table"):
        load(tmp_path, group="ward")
