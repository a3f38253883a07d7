"""Laws of experiments: what is wrong is said in one line that names file and key; what is right comes back."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.experiment import Data, Experiment, ExperimentError, from_json, load, parse, to_json, to_toml

TOP = 'model = "digits_cnn"\nrounds = 3\n'
DATA = '[data]\nname = "digits"\ndevices = 4\n'
METHOD = '[method]\nname = "fedavg"\n'
GOOD = TOP + DATA + METHOD


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_least_experiment(tmp_path: Path) -> None:
    assert load(written(tmp_path, GOOD)) == Experiment(
        data=Data(name="digits", devices=4), model="digits_cnn", method={"name": "fedavg"}, rounds=3, name="run"
    )


BAD = [
    # not TOML
    ("rounds == 3", "not valid TOML: Invalid value (at line 1, column 9)"),
    ("rounds = 3\nrounds = 4", "not valid TOML: Cannot overwrite a value"),
    ("model = 'x", "not valid TOML"),
    # missing
    ("", "data: missing; it has no default"),
    ("rounds = 3\n" + DATA + METHOD, "model: missing; it has no default"),
    ('model = "x"\n' + DATA + METHOD, "rounds: missing; it has no default"),
    (TOP + DATA, "method: missing; it has no default"),
    (TOP + "[data]\ndevices = 4\n" + METHOD, "data.name: missing; it has no default"),
    (TOP + DATA + "[method]\n", "method.name: missing; expected the name of a method, such as fedtiny"),
    (TOP + DATA + "[method]\nname = 3\n", "method.name: missing; expected the name"),
    # unknown
    ("round = 3\n" + GOOD, "round: unknown key; did you mean rounds?"),
    ("zzz = 3\n" + GOOD, "zzz: unknown key; expected one of data, deadline_s,"),
    (GOOD + "[trainng]\nepochs = 2\n", "trainng: unknown key; did you mean training?"),
    (GOOD + "[training]\nepoch = 2\n", "training.epoch: unknown key; did you mean epochs?"),
    (GOOD + "[pretraining]\nbatches = 2\n", "pretraining.batches: unknown key; did you mean batch?"),
    (GOOD.replace("devices", "device"), "data.device: unknown key; did you mean devices?"),
    ('"a\\nb" = 1\n' + GOOD, r"'a\nb': unknown key; expected one of"),
    ('"" = 1\n' + GOOD, "'': unknown key; expected one of"),
    # of a wrong type
    (GOOD.replace("3", '"3"'), "rounds: expected a whole number, got a text in quotes"),
    (GOOD.replace("3", "3.0"), "rounds: expected a whole number, got a number"),
    (GOOD.replace("3", "true"), "rounds: expected a whole number, got true or false"),
    (GOOD.replace("3", "[3]"), "rounds: expected a whole number, got a list"),
    (GOOD.replace("3", "2020-01-01"), "rounds: expected a whole number, got"),
    (GOOD.replace('"digits_cnn"', "3"), "model: expected a text in quotes, got a whole number"),
    ("training = 3\n" + GOOD, "training: expected a table, got a whole number"),
    (GOOD + "[[training]]\nepochs = 2\n", "training: expected a table, got a list"),
    (GOOD + "[training]\naugment = 1\n", "training.augment: expected true or false, got a whole number"),
    (GOOD + "[training]\nfinal_learning_rate = 'x'\n", "training.final_learning_rate: expected a number, got a text"),
    (TOP + "method = 3\n" + DATA, "method: expected a table, got a whole number"),
    (
        GOOD + "[training]\nschedule = [{ rounds = 2, too = 1 }]\n",
        "training.schedule[0].too: unknown key; did you mean to?",
    ),
    (GOOD + "[training]\nschedule = [{ rounds = 2 }, { to = 0.1 }]\n", "training.schedule[1].rounds: missing"),
    (
        GOOD + "[training]\nschedule = [{ rounds = 2, along = 'bend' }]\n",
        "training.schedule[0].along: 'bend' is not one of line, cosine, step",
    ),
    (GOOD + "[training]\nschedule = [{ rounds = 2, along = 'step' }]\n", "training.schedule[0].to: missing; along"),
    (
        GOOD + "[training]\nfinal_learning_rate = 0.1\nschedule = [{ rounds = 2 }]\n",
        "training.final_learning_rate: training.schedule says what it is",
    ),
    (GOOD + "[training]\nserver_beta2 = 0.5\n", "training.server_beta2: training.server_optimiser is"),
    (GOOD + "[training]\noptimiser = 'rms'\n", "training.optimiser: 'rms' is not one of sgd, adam"),
    # out of range
    (GOOD.replace("3", "-3"), "rounds: expected a whole number >= 0"),
    ("seed = -1\n" + GOOD, "seed: expected a whole number >= 0"),
    ("least_replies = 0\n" + GOOD, "least_replies: expected a number > 0"),
    ("least_replies = 1.01\n" + GOOD, "least_replies: expected a number <= 1"),
    ("evaluate_every = 0\n" + GOOD, "evaluate_every: expected a whole number >= 1"),
    (GOOD.replace("devices = 4", "devices = 4\nalpha = 0"), "data.alpha: expected a number > 0"),
    (GOOD.replace("devices = 4", "devices = 4\nalpha = inf"), "data.alpha: expected a number <="),
    (GOOD.replace("devices = 4", "devices = 4\nalpha = nan"), "data.alpha: expected a number"),
    (GOOD.replace("devices = 4", "devices = 4\npublic = 1"), "data.public: expected a number < 1"),
    (GOOD.replace("devices = 4", "devices = 4\ndevelopment = -0.1"), "data.development: expected a number >= 0"),
    (GOOD + "[training]\nmomentum = 1.0\n", "training.momentum: expected a number < 1"),
    (GOOD + "[training]\nlearning_rate = inf\n", "training.learning_rate: expected a number <="),
    (GOOD + "[training]\nlearning_rate = 0\n", "training.learning_rate: expected a number > 0"),
    (GOOD + "[training]\nfinal_learning_rate = 0\n", "training.final_learning_rate: expected a number > 0"),
    (GOOD + "[training]\nweight_decay = inf\n", "training.weight_decay: expected a number <="),
    (GOOD + "[training]\nparticipation = 0\n", "training.participation: expected a number > 0"),
    (GOOD + "[pretraining]\nepochs = -1\n", "pretraining.epochs: expected a whole number >= 0"),
    (GOOD.replace("3", "9" * 25), "rounds: expected a whole number <= 9223372036854775807"),
    (GOOD.replace("devices = 4", "devices = 18446744073709551616"), "data.devices: expected a whole number <="),
    (GOOD + f"[fleet.pi]\ndevices = 4\nsram_bytes = '{'9' * 400} GB'\n", "fleet.pi.sram_bytes: '999"),
    # not among the choices
    (
        GOOD.replace("devices = 4", 'devices = 4\npartition = "foo"'),
        "data.partition: 'foo' is not one of iid, dirichlet, shards, natural",
    ),
    # contradictions
    (GOOD.replace("devices = 4", ""), "data.devices: missing; a dirichlet partition wants a number of devices"),
    (GOOD.replace("devices = 4", "devices = 4\nofficial_test = true"), "data.official_test: only for partition"),
    ('name = "a/b"\n' + GOOD, "name: 'a/b' names a folder; use letters"),
    ('name = ".."\n' + GOOD, "name: '..' names a folder; use letters"),
    ('name = ""\n' + GOOD, "name: '' names a folder; use letters"),
    ('name = "a\\nb"\n' + GOOD, r"name: 'a\nb' names a folder"),
    # what neither the link nor the run's folder would give back
    (GOOD + '"a b" = 1\n', "method.'a b': no name of a parameter; use letters"),
    (GOOD + '"a\\u0000" = 1\n', r"method.'a\x00': no name of a parameter; use letters"),
    (GOOD + '[fleet."pi\u00e9"]\ndevices = 4\n', "fleet: 'pi\u00e9' names a folder; use letters"),
    (GOOD + "density = nan\n", "method.density: expected a finite number, a text, true or false, got nan"),
    (GOOD + "density = inf\n", "method.density: expected a finite number"),
    (GOOD + "when = 2020-01-01\n", "method.when: expected a finite number"),
    (GOOD + "[method.inner]\na = 1\n", "method.inner: expected a finite number"),
    (GOOD + f"big = 0x{'f' * 6000}\n", "method.big: expected a finite number, a text, true or false, got int beyond"),
    (
        GOOD + f"many = [{'0.5, ' * 9000}nan]\n",
        "method.many: expected a finite number, a text, true or false, got [0.5",
    ),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_what_is_wrong_is_said_in_one_line_with_file_and_key(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ExperimentError) as error:
        load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: {expected}")
    assert "\n" not in message


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"none\.toml: cannot be read \(No such file or directory\)"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ExperimentError, match=r"latin\.toml: not valid TOML: .*utf-8"):
        load(tmp_path / "latin.toml")


BAD_OVERRIDES = [
    ("rounds", "--set rounds: expected key=value, for example training.epochs=2"),
    ("=3", "--set =3: expected key=value"),
    ("model.x=1", "--set model.x=1: model is not a table"),
    ("method.name.x=3", "--set method.name.x=3: name is not a table"),
    ("training=3", "FILE: training: expected a table, got a whole number"),
    ("training.epoch=2", "FILE: training.epoch: unknown key; did you mean epochs?"),
    ("training..epochs=2", "FILE: training.'': unknown key"),
    ("rounds=many", "FILE: rounds: expected a whole number, got a text in quotes"),
    ("a b=3", "FILE: 'a b': unknown key"),
    ("rounds=[[[[", "FILE: rounds: expected a whole number, got a text in quotes"),
    ("name=\udcff", "FILE: name: '\\udcff' names a folder"),
    ("model=\udcff", "FILE: model: '\\udcff' is not UTF-8"),
    ("data.name=\udcff", "FILE: data.name: '\\udcff' is not UTF-8"),
    ("method.x=\udcff", "FILE: method.x: expected a finite number, a text, true or false, got '\\udcff'"),
    ("method.\udcff=3", "FILE: method.'\\udcff': no name of a parameter"),
    ("\udcff=3", "FILE: a key or a text is not UTF-8: '\\udcff'"),
]


@pytest.mark.parametrize(("override", "expected"), BAD_OVERRIDES)
def test_a_bad_override_is_said_in_one_line(tmp_path: Path, override: str, expected: str) -> None:
    path = written(tmp_path, GOOD)
    with pytest.raises(ExperimentError) as error:
        load(path, [override])
    assert str(error.value).startswith(expected.replace("FILE", str(path)))
    assert "\n" not in str(error.value)


def test_overrides_win_in_order_and_make_tables(tmp_path: Path) -> None:
    overrides = [
        "rounds=7", "rounds=8", "training.epochs=2", "training.learning_rate = 1e-3", "data.partition=iid",
        "method.name=fedtiny", "method.density=0.1", 'method.noise="erk"', "pretraining.epochs=0", "name=other",
    ]  # fmt: skip
    found = load(written(tmp_path, "seed = 1\n" + GOOD), overrides, seed=5)
    assert (found.rounds, found.seed, found.name) == (8, 5, "other")
    assert (found.training.epochs, found.training.learning_rate, found.pretraining.epochs) == (2, 1e-3, 0)
    assert found.data.partition == "iid"
    assert found.method == {"name": "fedtiny", "density": 0.1, "noise": "erk"}
    assert load(written(tmp_path, "seed = 1\n" + GOOD)).seed == 1


PARAMETERS = st.dictionaries(
    st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda key: key != "name"),
    st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    max_size=4,
)


@given(
    parameters=PARAMETERS,
    alpha=st.floats(1e-6, 1e6),
    final=st.none() | st.floats(1e-9, 1),
    seed=st.integers(0, 2**62),
    natural=st.booleans(),
)
def test_an_experiment_returns_from_json_and_toml(
    parameters: dict[str, object], alpha: float, final: float | None, seed: int, natural: bool
) -> None:
    table = {
        **tomllib.loads(GOOD),
        "name": "run",
        "seed": seed,
        "method": {"name": "fedtiny", **parameters},
        "training": {} if final is None else {"final_learning_rate": final},
    }
    table["data"] = {"name": "d", "alpha": alpha, **({"partition": "natural"} if natural else {"devices": 3})}
    given_experiment = parse(table, "a table")
    text = to_json(given_experiment)
    assert from_json(text) == given_experiment
    assert from_json(text.encode()) == given_experiment
    assert to_json(from_json(text)) == text
    assert "\n" not in text
    assert parse(tomllib.loads(to_toml(given_experiment)), "a table") == given_experiment


def test_to_toml_gives_the_experiment_again(tmp_path: Path) -> None:
    settings = ["method.name=fedtiny", "method.density=0.05", "method.by=true", 'method.text="é\\"\\n\\\\"', "seed=3"]
    found = load(written(tmp_path, GOOD), settings)
    assert parse(tomllib.loads(to_toml(found)), "again") == found


def test_a_schedule_comes_back_from_toml_and_json_and_adam_has_a_rate_of_its_own(tmp_path: Path) -> None:
    text = "[training]\noptimiser = 'adam'\nschedule = [{ rounds = 2, to = 0.1 }, { rounds = 3 }]\n"
    found = load(written(tmp_path, GOOD + text))
    assert (found.training.learning_rate, found.pretraining.learning_rate) == (0.001, 0.001)
    assert [(each.rounds, each.to, each.along) for each in found.training.schedule] == [
        (2, 0.1, "line"),
        (3, None, "line"),
    ]
    assert parse(tomllib.loads(to_toml(found)), "again") == found
    assert from_json(to_json(found)) == found
    said = load(written(tmp_path, GOOD + text + "learning_rate = 0.01\n"))
    assert (said.training.learning_rate, said.pretraining.learning_rate) == (0.01, 0.001)
