"""Schemas as TOML and CSV: round trips, and hostile files."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.core.errors import ConfigError
from hardpoint.threats.features import Feature, Kind, Mutability, Schema

numbers = st.floats(-1e9, 1e9, allow_nan=False)
words = st.text(st.characters(exclude_characters="`", exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def schemas(draw):
    features = []
    for name in draw(st.lists(words, min_size=1, max_size=5, unique=True)):
        kind = draw(st.sampled_from([Kind.REAL, Kind.INTEGER, Kind.BINARY, Kind.ORDINAL]))
        cost, mutable = draw(st.floats(1e-3, 1e3)), draw(st.sampled_from(Mutability))
        if kind is Kind.ORDINAL:
            levels = sorted(draw(st.sets(numbers, min_size=1, max_size=4)))
            features.append(Feature(name, kind, mutable=mutable, cost=cost, levels=tuple(levels)))
        elif kind is Kind.BINARY:
            features.append(Feature(name, kind, mutable=mutable, cost=cost))
        else:
            low, high = sorted([draw(numbers), draw(numbers)])
            ends = (draw(st.sampled_from([low, "dynamic"])), draw(st.sampled_from([high, "dynamic"])))
            features.append(Feature(name, kind, *ends, mutable, cost))
    relations = draw(st.sampled_from([[], [f"`{features[0].name}` > 0"]]))
    return Schema(features, relations)


@settings(max_examples=50, deadline=None)
@given(schema=schemas())
def test_toml_round_trip(schema, tmp_path_factory):
    path = tmp_path_factory.mktemp("schema") / "schema.toml"
    schema.save(path)
    assert Schema.load(path) == schema
    assert Schema.load(path).sha256 == schema.sha256


def test_csv_and_toml_round_trip_with_every_kind(tmp_path):
    schema = Schema(
        [
            Feature('a,b "c"', Kind.INTEGER, "dynamic", 9, Mutability.INCREASE, 2.5),
            Feature("x", Kind.REAL, 0.1, 0.7),
            Feature("flag", Kind.BINARY, mutable=Mutability.NO),
            Feature("red", Kind.ONE_HOT, group="colour"),
            Feature("green", Kind.ONE_HOT, group="colour"),
            Feature("grade", Kind.ORDINAL, levels=(1, 2.5)),
        ]
    )
    for suffix in ("csv", "toml"):
        path = tmp_path / f"schema.{suffix}"
        schema.save(path)
        assert Schema.load(path) == schema
    related = schema.with_relations("x <= flag")
    with pytest.raises(ConfigError, match=r"save the schema as \.toml"):
        related.save(tmp_path / "schema.csv")
    assert Schema.load(tmp_path / "schema.csv", ["x <= flag"]) == related


def test_the_plain_csv_columns_of_the_literature_are_read(tmp_path):
    path = tmp_path / "features.csv"
    path.write_text(
        "feature,type,mutable,min,max\nlength,int,True,12.0,1641.0\nage,int,False,dynamic,9\nshare,real,TRUE,0,.5\n"
        "us,ohe0,True,0,1\neu,ohe0,True,0,1\n"
    )
    schema = Schema.load(path)
    assert [f.kind for f in schema.features] == [
        Kind.INTEGER,
        Kind.INTEGER,
        Kind.REAL,
        Kind.ONE_HOT,
        Kind.ONE_HOT,
    ]
    assert [f.mutable for f in schema.features[:2]] == [Mutability.YES, Mutability.NO]
    assert schema.features[1].low == "dynamic"
    assert schema.groups == {"ohe0": (3, 4)}


FEATURE = '[[feature]]\nname = "a"\nlow = 0\nhigh = 1\n'


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("a =", "not valid TOML", "line"),
        ("", "no features", "one feature per column"),
        ("featur = []", "unknown key 'featur'", "did you mean 'feature'"),
        (FEATURE + "mutble = true", "feature 'a' has an unknown key 'mutble'", "did you mean 'mutable'"),
        (FEATURE + 'mutable = "incraese"', "mutable is 'incraese'", "did you mean 'increase'"),
        (FEATURE + 'kind = "integr"', "kind is 'integr'", "did you mean 'integer'"),
        (FEATURE + "cost = true", "cost is True", "number"),
        (FEATURE + "cost = nan", "cost of feature 'a'", "finite"),
        (FEATURE + 'levels = "12"', "levels", "list numbers"),
        (FEATURE + 'kind = "one_hot"\ngroup = 3', "group is 3", "quotes"),
        (FEATURE + "group = []", "group is []", "quotes"),
        ('[[feature]]\nname = "a"\nlow = "dynamc"\nhigh = 1', "low is 'dynamc'", "dynamic"),
        ('[[feature]]\nname = "a"', "feature 'a' has no bounds", "Schema.learn"),
        ("[[feature]]\nlow = 0\nhigh = 1", "feature number 1 has no name", "name"),
        ("[feature]\nname = 'a'", "'feature' is not a list", "[[feature]]"),
        ("feature = 3", "'feature' is not a list", "[[feature]]"),
        ("relations = 'a'\n" + FEATURE, "'relations' is not a list", "relations ="),
        ("relations = ['__import__(1) > 0']\n" + FEATURE, "no function '__import__'", "use one of"),
        ("relations = ['b > 0']\n" + FEATURE, "unknown feature 'b'", "use one of: a"),
        (FEATURE + FEATURE, "'a' appears twice", "own name"),
        ("x = " + "[" * 5000 + "]" * 5000, "", ""),
    ],
)
def test_hostile_toml_is_refused_with_a_cure(text, what, cure, tmp_path):
    path = tmp_path / "schema.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Schema.load(path)
    assert str(path) in caught.value.what
    assert what in caught.value.what
    assert cure in caught.value.cure


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("", "no column 'feature'", "feature,type,mutable,min,max"),
        ("feature,type,mutable,min\n", "no column 'max'", "feature,type,mutable,min,max"),
        ("feature,type,mutabel,min,max\n", "unknown key 'mutabel'", "did you mean 'mutable'"),
        ("feature,type,mutable,min,max\na,int,True,0\n", "line 2 has 4 fields", "every field"),
        ("feature,type,mutable,min,max\na,int,True,zero,1\n", "min is 'zero'", "number"),
        ("feature,type,mutable,min,max\na,int,maybe,0,1\n", "mutable is 'maybe'", "use one of"),
        ("feature,type,mutable,min,max\na,category,True,0,1\n", "type is 'category'", "use one of"),
        ("feature,type,mutable,min,max\na,real,True,0,inf\n", "high of feature 'a'", "finite"),
        ('feature,type,mutable,min,max\n"a,real', "not valid CSV", "quote"),
    ],
)
def test_hostile_csv_is_refused_with_a_cure(text, what, cure, tmp_path):
    path = tmp_path / "schema.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Schema.load(path)
    assert what in caught.value.what
    assert cure in caught.value.cure


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"neither \.toml nor \.csv"):
        Schema.load(tmp_path / "schema.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        Schema.load(tmp_path / "absent.toml")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        Schema.load(binary)
