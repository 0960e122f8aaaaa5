"""Tables with named columns: CSV files written by hand, right and wrong, and Parquet where pyarrow is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedlama.data.partition.dirichlet import Dirichlet
from fedlama.data.splitting import by_share
from fedlama.data.table import TableFile
from fedlama.errors import ConfigError, DataError, MissingExtraError
from fedlama.experiment import assemble, prepare, resolve

WARDS = """age,sex,smoker,hospital,part,sick
40,f,true,Bonn,train,no
50,m,false,Bonn,train,yes
60,f,false,Ulm,test,yes

70,m,true,Ulm,train,no
80,f,true,Bonn,other,no
"""


def write(folder: Path, text: str, name: str = "wards.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def load(folder: Path, text: str = WARDS, **settings: Any) -> Any:  # noqa: ANN401
    return TableFile(**{"path": write(folder, text), "target": "sick", **settings}).load()


def test_columns_become_features_classes_groups_and_parts(tmp_path: Path) -> None:
    data = load(tmp_path, group="hospital", split="part")
    assert data.name == "wards"
    assert data.train_x.tolist() == [[40, 1, 0, 1], [50, 0, 1, 0], [70, 0, 1, 1]]  # age, f, m, smoker
    assert data.train_x.dtype == torch.float32
    assert data.test_x.tolist() == [[60, 1, 0, 0]]
    assert data.train_y.tolist() == [0, 1, 0]
    assert data.test_y.tolist() == [1]
    assert data.class_names == ("no", "yes")
    assert data.groups.tolist() == [0, 0, 1]
    assert data.test_groups.tolist() == [1]
    assert data.group_names == ("Bonn", "Ulm")


def test_inputs_are_chosen_by_name_and_pattern(tmp_path: Path) -> None:
    text = "gene_a,gene_b,code [x],id,y\n1,2,7,a1,0\n3,4,8,a2,1\n5,6,7,a3,1\n"
    assert load(tmp_path, text, target="y", inputs=["gene_*"]).train_x.shape[1] == 2
    assert load(tmp_path, text, target="y", inputs=["gene_*", "code [x]"], categories=["code*"]).train_x.shape[1] == 4
    assert load(tmp_path, text, target="y", ignore=["id", "gene_b"]).train_x.shape[1] == 2


def test_several_targets_are_measurements(tmp_path: Path) -> None:
    text = "x,event,time,y\n1,0,5.5,0.25\n2,1,6,0.5\n3,0,7,1.5\n4,1,8,2\n"
    data = load(tmp_path, text, target=["event", "time"], inputs=["x"])
    assert data.classes == 0
    assert data.outputs == 2
    both = torch.cat([data.train_y, data.test_y]).tolist()
    assert sorted(both) == [[0, 5.5], [0, 7], [1, 6], [1, 8]]
    single = load(tmp_path, text, target="y", inputs=["x"])
    assert single.train_y.dtype == torch.float32
    assert single.train_y.ndim == 1
    assert load(tmp_path, text, target="event", inputs=["x"]).classes == 2
    assert load(tmp_path, text, target="event", inputs=["x"], targets="numbers").classes == 0


def test_rows_are_held_out_in_every_group_alike_and_always_the_same() -> None:
    groups = np.repeat([0, 1, 2, 3], [10, 5, 2, 1])
    train, test = by_share("x", 18, 0.4, groups)
    assert np.bincount(groups[test], minlength=4).tolist() == [4, 2, 1, 0]
    assert sorted([*train, *test]) == list(range(18))
    assert by_share("x", 18, 0.4, groups)[1].tolist() == test.tolist() == [0, 1, 2, 6, 11, 14, 16]


def test_a_second_file_can_hold_the_test_rows(tmp_path: Path) -> None:
    other = write(tmp_path, "y,color,x\nb,red,9\n", "test.csv")
    data = load(tmp_path, "x,color,y\n1,red,a\n2,blue,b\n", target="y", test_path=other)
    assert data.train_x.tolist() == [[1, 0, 1], [2, 1, 0]]
    assert data.test_x.tolist() == [[9, 0, 1]]
    assert data.test_y.tolist() == [1]


def test_a_second_table_is_joined_by_a_key_and_groups_are_found_in_text(tmp_path: Path) -> None:
    other = write(tmp_path, "pid,fold\np2,train_10\np1,test_9\np4,train_9\n", "folds.csv")
    text = "pid,x,y\np1,1,0\np2,2,1\np3,,1\np4,4,0\n"
    data = load(tmp_path, text, target="y", join=other, key="pid", group="fold", group_pattern="_(.*)")
    assert data.group_names == ("9", "10")
    assert torch.cat([data.train_x, data.test_x]).flatten().sort().values.tolist() == [1, 2, 4]
    assert data.train_x.shape[1] == 1


def test_rows_that_lack_a_value_are_dropped_on_request(tmp_path: Path) -> None:
    text = "x,y,part\n1,0,train\n,1,train\n3,NA,train\n4,1,train\n5,1,test\n"
    data = load(tmp_path, text, target="y", split="part", missing="drop")
    assert data.train_x.tolist() == [[1], [4]]
    assert data.test_x.tolist() == [[5]]


def test_inputs_are_standardised_over_the_training_rows(tmp_path: Path) -> None:
    text = "x,c,y,part\n1,5,0,train\n3,5,1,train\n9,5,1,test\n"
    data = load(tmp_path, text, target="y", split="part", standardise=True)
    assert data.train_x.tolist() == [[-1, 0], [1, 0]]
    assert data.test_x.tolist() == [[7, 0]]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (WARDS, {"target": "sik"}, r"wards\.csv has no column 'sik', which data\.target names; did you mean 'sick'"),
        (WARDS, {"group": "hospitl"}, r"no column 'hospitl', which data\.group names; did you mean 'hospital'"),
        (WARDS, {"inputs": ["agee"]}, r"no column 'agee', which data\.inputs names; did you mean 'age'"),
        (
            WARDS,
            {"split": "part", "test": "valid"},
            r"no row of 'part' is 'valid' \(it holds 'other', 'test', 't",
        ),
        (WARDS, {"ignore": ["*"]}, "no column is left for the inputs"),
        ("a;sick\n1;2\n", {}, r"its header is one column with ';' in it, so set data\.separator to ';'"),
        ("x,sick\n1,a\n2,\n", {}, r"wards\.csv, line 3: the target 'sick' has no value; fill it in"),
        ("x,sick\n1,a\nNaN,b\n", {}, r"wards\.csv, line 3: 'x' has no value; .*data\.missing = 'drop'"),
        ("x,h,sick\n1,,a\n2,u,b\n", {"group": "h"}, "line 2: the group 'h' has no value"),
        ("x,sick\n1,a\n2,b\nzwei,b\n", {}, r"line 4: 'x' is 'zwei' in a column of numbers; .*data\.categories"),
        ("x,sick\n1,3\n2,b\n3,b\n", {}, "line 3: 'sick' is 'b' in a column of numbers"),
        ("x,sick\n1,a\n2,a\n", {}, "is 'a' in every row, so there is one class only"),
        ("x,sick\n1,a\n2,b,c\n", {}, "line 3: 3 fields, expected 2 as in the header"),
        ('x,sick\n1,"a\n2,b\n', {}, "line 3: unexpected end of data"),
        ("x,x,sick\n1,2,a\n", {}, "has the column 'x' twice"),
        ("x,sick\n", {}, "has no rows"),
        ("", {}, "has no header"),
        ("x,sick\n1,a\n2,b\n", {"targets": "numbers"}, "'sick' holds names, but measurements are numbers"),
        (
            "x,h,sick\n1,b,a\n2,u7,b\n",
            {"group": "h", "group_pattern": r"\d"},
            r"line 2: 'h' is 'b', in which",
        ),
        (
            "x,y,sick\n1,2,a\n2,3,b\n",
            {"target": ["x", "y"], "targets": "classes"},
            "names 2 columns, but classes",
        ),
        ("x,sick\ninf,a\n2,b\n3,a\n", {}, "holds inf"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, text, **settings)


def test_identifiers_are_not_categories(tmp_path: Path) -> None:
    rows = "".join(f"p{row},{row % 2}\n" for row in range(150))
    with pytest.raises(DataError, match=r"'pid' has 150 different names, so it looks like an identifier; .*ignore"):
        load(tmp_path, f"pid,y\n{rows}", target="y")


def test_a_join_must_fit(tmp_path: Path) -> None:
    text = "pid,x,y\np1,1,0\np2,2,1\n"
    for other, message in (
        ("pid,f\np1,a\np1,b\n", r"other\.csv, line 3: 'pid' is p1, as in a row before"),
        ("pid,x\np1,a\n", "both have a column 'x'"),
        ("pid,f\nq1,a\n", "no value of 'pid' in .* is in .* too"),
        ("pod,f\np1,a\n", r"has no column 'pid', which data\.key names; did you mean 'pod'"),
    ):
        with pytest.raises(DataError, match=message):
            load(tmp_path, text, target="y", join=write(tmp_path, other, "other.csv"), key="pid")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "part", "test_path": "x.csv"}, "split and test_path both say which rows are for testing"),
        ({"join": "x.csv"}, "key is missing, but join and key belong together"),
        ({"test_share": 1.5}, "test_share is 1.5, expected a share between 0 and 1"),
        ({"separator": "::"}, "separator is '::', expected one character"),
        ({"target": []}, "target names no column"),
        ({"group": "h", "group_pattern": "("}, "expected a regular expression"),
        ({"group_pattern": "x"}, "group_pattern is given, but group is not"),
        ({"missing": "fill"}, "missing"),
    ],
)
def test_wrong_settings_are_refused_before_reading(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({"data": {"name": "table", "path": "missing.csv", "target": "y", **settings}})


def test_a_survival_table_runs_from_an_experiment(tmp_path: Path) -> None:
    rows = "".join(f"{row},{row % 5},{row % 3 > 0:d},{10 + row % 7},h{row % 2}\n" for row in range(60))
    path = write(tmp_path, f"a,b,event,time,hospital\n{rows}")
    own = resolve(
        {
            "data": {
                "name": "table",
                "path": str(path),
                "target": ["event", "time"],
                "group": "hospital",
                "standardise": True,
            },
            "partition": {"name": "natural"},
            "model": {"name": "mlp", "hidden": [], "outputs": 1},
            "task": {"name": "cox"},
            "strategy": {"name": "fedavg", "base_interval": 2},
            "batch_size": 8,
            "local_steps": 8,
        }
    )
    result = assemble(own, prepare(own)).run()
    score = result.rounds[-1].score
    assert score is not None
    assert 0 <= score.metrics["concordance"] <= 1
    assert resolve(own.to_json()) == own


def test_classes_are_needed_to_split_by_classes(tmp_path: Path) -> None:
    data = load(tmp_path, "x,y\n1,0.5\n2,0.25\n3,0.75\n", target="y")
    with pytest.raises(ConfigError, match=r"the targets of 'wards' are measurements; set partition\.name to 'iid'"):
        Dirichlet(2).split(data, 0, 1)


def test_parquet_equals_csv(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table(
        {
            "age": [40, 50, 60, 70, 80],
            "sex": ["f", "m", "f", "m", "f"],
            "smoker": [True, False, False, True, True],
            "hospital": ["Bonn", "Bonn", "Ulm", "Ulm", "Bonn"],
            "part": ["train", "train", "test", "train", "other"],
            "sick": ["no", "yes", "yes", "no", "no"],
        }
    )
    parquet.write_table(table, tmp_path / "wards.parquet")
    read = TableFile(path=tmp_path / "wards.parquet", target="sick", group="hospital", split="part").load()
    written = load(tmp_path, group="hospital", split="part")
    assert read.train_x.equal(written.train_x)
    assert read.train_y.equal(written.train_y)
    assert read.groups.equal(written.groups)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("fedlama.data.table_files.importlib.import_module", absent)
    write(tmp_path, "", "wards.parquet")
    with pytest.raises(MissingExtraError, match=r"pyarrow is not installed; .* 'fedlama\[datasets\]'"):
        TableFile(path=tmp_path / "wards.parquet", target="sick").load()
