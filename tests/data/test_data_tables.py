"""CSV and Parquet: the same table gives the same rows, and every bad value is named by row and column."""

from __future__ import annotations

import contextlib
import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.core.errors import DataError, HardpointError, NothingToTest
from hardpoint.data import Dataset, load_data
from hardpoint.data import streams as streams_module

TABLE = "age,colour,income,label\n31,red,1.5e3,1\n44, blue ,-2,0\n\n18,red,0.25,1.0\n"


def rows(data: Dataset) -> tuple[list[list[float]], list[int]]:
    x, y = data.rows(torch.arange(len(data)))
    return x.tolist(), y.tolist()


def table(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    raw = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return folder / name


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_numbers_come_back_with_their_names(tmp_path: Path, name: str) -> None:
    data = load_data(table(tmp_path, TABLE, name), columns=["income", "age"])
    assert data.features == ("income", "age")
    assert rows(data) == ([[1500, 31], [-2, 44], [0.25, 18]], [1, 0, 1])


def test_categories_become_their_place(tmp_path: Path) -> None:
    data = load_data(table(tmp_path, TABLE), categories={"colour": ("blue", "red")})
    assert data.features == ("age", "colour", "income")
    assert rows(data)[0] == [[31, 1, 1500], [44, 0, -2], [18, 1, 0.25]]
    with pytest.raises(DataError, match=r"row 1 .* has 'blue' in column 'colour'.*red, green"):
        load_data(table(tmp_path, TABLE), categories={"colour": ("red", "green")})
    with pytest.raises(DataError, match="no column 'color'; did you mean 'colour'"):
        load_data(table(tmp_path, TABLE), categories={"color": ("red",)})


def test_text_without_categories_names_the_column_and_the_cure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 0 .*'red' in column 'colour'.*columns=.*categories="):
        load_data(table(tmp_path, TABLE))


def test_text_labels_are_looked_up_in_the_classes(tmp_path: Path) -> None:
    text = "a,kind\n1,spam\n2,ham\n"
    data = load_data(table(tmp_path, text), label="kind", classes=("ham", "spam"))
    assert rows(data)[1] == [1, 0]
    assert data.classes == ("ham", "spam")
    with pytest.raises(DataError, match=r"'spam' in column 'kind'.*classes=\('spam'"):
        load_data(table(tmp_path, text), label="kind")
    with pytest.raises(DataError, match="row 1"):
        load_data(table(tmp_path, text), label="kind", classes=("spam", "eggs"))


def test_a_table_without_a_header(tmp_path: Path) -> None:
    path = table(tmp_path, "1,2,0\n3,4,1\n")
    with pytest.raises(DataError, match="header=False"):
        load_data(path)
    data = load_data(path, header=False, label=-1)
    assert data.features == ("0", "1")
    assert rows(data) == ([[1, 2], [3, 4]], [0, 1])
    assert rows(load_data(path, header=False, label=0, classes=("1", "3")))[1] == [0, 1]
    with pytest.raises(DataError, match="none at position 3"):
        load_data(path, header=False, label=3)


def test_tabs_byte_order_marks_quotes_and_windows_lines(tmp_path: Path) -> None:
    data = load_data(table(tmp_path, '\ufeffa\t"b,\nc"\tlabel\r\n1\t2\t0\r\n"3"\t4\t1\r\n', "t.tsv"))
    assert data.features == ("a", "b,\nc")
    assert rows(data) == ([[1, 2], [3, 4]], [0, 1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,label\n1,2,0\n1,2\n", "row 1 .* has 2 values, the table has 3"),
        ("a,b,label\n1,2,0\n1,2,0,9\n", "row 1 .* has 4 values"),
        ("a,a,label\n1,2,0\n", "two columns named 'a'"),
        ("a,b,Label\n1,2,0\n", "no label column 'label'.*did you mean 'Label'"),
        ("label\n1\n", "none or repeat"),
        ("a;b;label\n1;2;0\n", "not separated by commas"),
        ("a,label\n1,0\n,1\n", "row 1 .* has no value in column 'a'"),
        ("a,label\n1,0\n ? ,1\n", "row 1 .* has no value in column 'a'"),
        ("a,label\n1,0\n2,\n", "row 1 .* has no value in column 'label'"),
        ("a,label\n1_000,0\n", "'1_000' in column 'a'"),
        ("a,label\n1,0\n2,1.5\n", "row 1 .* label 1.5"),
        ("a,label\n1,0\n2,nan\n", "row 1 .* label nan"),
        ("a,label\n1,0\n2,-1\n", "row 1 .* label -1.*negative"),
        ('a,label\n1,0\n"2,1\n', "line 3 .* cannot be read"),
        ("a,label\n1,0\n2\0,1\n", "row 1 .* in column 'a'"),
        ("a,label\n" + "1," * 10, "row 0 .* values"),
    ],
)
def test_every_bad_value_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_data(table(tmp_path, text))


@pytest.mark.parametrize("text", ["a,label\n", "\n\n"])
def test_no_rows_is_nothing_to_test(tmp_path: Path, text: str) -> None:
    with pytest.raises(NothingToTest):
        load_data(table(tmp_path, text))


def test_text_that_is_not_utf8_is_named_by_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 3 .* not UTF-8 text .byte 0xe9"):
        load_data(table(tmp_path, "a,label\n1,0\n2é,1\n".encode("latin-1")))


def test_a_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2 .* longer than"):
        load_data(table(tmp_path, "a,label\n" + "1" * 5_000_000, "t.csv.gz"))


def test_a_packed_table_beyond_its_means_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "FREE_BYTES", 1 << 16)
    with pytest.raises(DataError, match="claims to unpack"):
        load_data(table(tmp_path, "a,label\n" + "1,0\n" * 200_000, "t.csv.gz"))


def test_a_truncated_packed_table_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "a,label\n" + "".join(f"{i * 0.37},0\n" for i in range(5000)), "t.csv.gz")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="damaged or cut short"):
        load_data(path)


def test_a_label_is_never_a_feature(tmp_path: Path) -> None:
    path = table(tmp_path, TABLE)
    with pytest.raises(DataError, match="both the label and a feature"):
        load_data(path, columns=["age", "label"])
    with pytest.raises(DataError, match="not a feature"):
        load_data(path, columns=["age"], categories={"colour": ("red", "blue")})
    with pytest.raises(DataError, match="no column 'agee'; did you mean 'age'"):
        load_data(path, columns=["agee"])


def test_limit_stops_before_a_bad_row(tmp_path: Path) -> None:
    assert len(load_data(table(tmp_path, "a,label\n1,0\n2,1\nbroken,row,here\n"), limit=2)) == 2


def test_precision_follows_the_type_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path, "a,label\n0.1,0\n16777217,1\n1e300,1\n")
    wide = load_data(path, dtype=torch.float64)
    assert rows(wide)[0] == [[0.1], [16777217.0], [1e300]]
    assert rows(load_data(path))[0] == [[float(np.float32(0.1))], [16777216.0], [float("inf")]]


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(
        st.tuples(st.floats(width=32), st.floats(width=32), st.integers(0, 9)), min_size=1, max_size=40
    )
)
def test_what_python_writes_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[float, float, int]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "label"), *values])
    x, y = load_data(path).rows(torch.arange(len(values)))
    assert np.array_equal(x.numpy(), np.array([v[:2] for v in values], np.float32), equal_nan=True)
    assert y.tolist() == [v[2] for v in values]


@settings(max_examples=80, deadline=None)
@given(raw=st.binary(min_size=1, max_size=200))
def test_random_bytes_never_escape_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    for content in (raw, b"a,label\n1,0\n" + raw):
        with contextlib.suppress(HardpointError):
            load_data(table(folder, content))


class TestParquet:
    """The same contract for Parquet files."""

    @pytest.fixture(autouse=True)
    def _needs_pyarrow(self) -> None:
        pytest.importorskip("pyarrow")

    def write(self, folder: Path, columns: dict[str, object]) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), folder / "t.parquet", row_group_size=7)
        return folder / "t.parquet"

    def test_it_reads_what_csv_reads(self, tmp_path: Path) -> None:
        import pyarrow as pa

        colours = pa.array(["red", "blue", "red"]).dictionary_encode()
        path = self.write(
            tmp_path,
            {
                "age": [31, 44, 18],
                "colour": colours,
                "income": [1.5e3, -2, 0.25],
                "label": [True, False, True],
            },
        )
        options = {"categories": {"colour": ("blue", "red")}}
        data = load_data(path, **options)  # type: ignore[arg-type]
        other = load_data(table(tmp_path, TABLE), **options)  # type: ignore[arg-type]
        assert rows(data) == rows(other)
        assert data.features == other.features
        assert data.sha256() == other.sha256()
        with pytest.raises(DataError, match=r"column 'colour'.*categories="):
            load_data(path)

    def test_limits_and_batches(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, {"a": np.arange(50_000.0), "label": np.arange(50_000) % 3})
        assert rows(load_data(path))[1] == [i % 3 for i in range(50_000)]
        assert rows(load_data(path, limit=9_000))[0][-1] == [8999]

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({"a": [1.0, None], "label": [0, 1]}, "row 1 .* no value in column 'a'"),
            ({"a": [1.0, 2.0], "label": [0, None]}, "row 1 .* no value in column 'label'"),
            ({"a": [1.0, 2.0], "label": ["x", None]}, "'x' in column 'label'"),
            ({"a": [[1.0], [2.0]], "label": [0, 1]}, "column 'a' .* holds list"),
            ({"a": [1.0, 2.0], "target": [0, 1]}, "no label column"),
            ({"a": [1.0, 2.0], "label": [0, 2.5]}, "row 1 .* 2.5"),
        ],
    )
    def test_every_bad_value_is_named(self, tmp_path: Path, columns: dict[str, object], words: str) -> None:
        with pytest.raises(DataError, match=words):
            load_data(self.write(tmp_path, columns))

    def test_damage_is_named(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, {"a": np.arange(100.0), "label": np.zeros(100, np.int64)})
        raw = path.read_bytes()
        for damaged in (raw[:-10], raw[: len(raw) // 2], b"PAR1" + bytes(40) + b"PAR1", b"no parquet"):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=r"t\.parquet"):
                load_data(path)

    def test_a_table_beyond_its_means_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        monkeypatch.setattr(streams_module, "FREE_BYTES", 1 << 16)
        constant = np.zeros(3_000_000, np.float32)
        pq.write_table(pa.table({"a": constant, "label": constant}), tmp_path / "t.parquet")
        with pytest.raises(DataError, match="claims to unpack"):
            load_data(tmp_path / "t.parquet")
