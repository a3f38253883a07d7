"""The benchmark fuzz: inputs that can be repeated, and a first few of each door that wants no model."""

import pytest

from simulations.benchmarks.fuzzing import texts, trying
from simulations.benchmarks.fuzzing.mutate import SEPARATOR, mutated
from simulations.benchmarks.fuzzing.trying import ACCEPTED, REFUSED, Piece, case, tried


def test_an_input_follows_from_seed_target_and_number() -> None:
    seeds = [b"rounds = 3\nname = 'a'\n", b"\x00\x01\x02" * 30, b"1" + SEPARATOR + b"\xff\xfe"]
    found = [case("toml", 0, number, seeds) for number in range(300)]
    assert found == [case("toml", 0, number, seeds) for number in range(300)]
    assert sum(a != b for a, b in zip(found, (case("toml", 1, n, seeds) for n in range(300)), strict=True)) > 250
    assert len(set(found)) > 200


def test_only_one_part_of_an_input_is_spoilt() -> None:
    seeds = [b"aaaa" + SEPARATOR + b"bbbb" + SEPARATOR + b"cccc"]
    for number in range(200):
        parts = mutated(seeds, trying.generator(0, number)).split(SEPARATOR)
        assert sum(one != other for one, other in zip(parts, seeds[0].split(SEPARATOR), strict=False)) <= 1


@pytest.mark.parametrize("name", texts.TARGETS)
def test_texts_are_taken_or_refused(name: str) -> None:
    target = texts.TARGETS[name]
    seeds = target.seeds()
    for seed in seeds:
        target.run(seed)
    said = []
    for number in range(60):
        try:
            target.run(case(name, 7, number, seeds))
        except target.documented as error:
            said.append(str(error))
    assert said
    assert not any("\n" in each for each in said)


def test_a_child_tries_every_input_of_its_pieces() -> None:
    found = list(tried([Piece("wire", 0, 20), Piece("masks", 5, 10)], 0))
    assert [(one.target, one.number) for one in found] == [
        *(("wire", number) for number in range(20)), *(("masks", number) for number in range(5, 10)),
    ]  # fmt: skip
    assert {one.verdict for one in found} <= {ACCEPTED, REFUSED}
