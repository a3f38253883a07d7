"""Laws of every kind of evidence: honest answers pass and pool, damaged ones are refused, no bit is lost on the way."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch

from fedprune import measures
from fedprune.federated.link.records import from_records, to_records
from fedprune.measures import DEVELOPMENT, TRAIN, Kind
from fedprune.types import Model
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload

from . import measured_world
from .measured_world import CASES, Case, World

torch.set_num_threads(1)

KINDS = measures.names()
_FRAMING = 2**10  # of numbers and names, far less than is granted


class Asked(NamedTuple):
    """A kind, asked of the made-up devices."""

    kind: Kind
    case: Case
    world: World
    args: Any
    request: Payload
    answers: tuple[Payload, ...]

    @property
    def model(self) -> Model:
        """As its holders have it."""
        return self.world.model


@functools.cache
def asked(name: str) -> Asked:
    """A kind without a case is asked without args."""
    kind, case = measures.find(name), CASES.get(name, Case())
    world = measured_world.world(case.net)
    args = case.args(world.model)
    try:
        plain = kind.request(world.model, args)
        request = plain._replace(values={**plain.values, "round": 2})
        answers = tuple(kind.measure(device, request, 0) for device in world.devices)
    except Exception as error:
        if name in CASES:
            raise
        pytest.fail(f"{name} cannot be asked without args ({error}); add a case of it to measured_world.CASES")
    return Asked(kind, case, world, args, request, answers)


def same(one: Payload, other: Payload) -> bool:
    """Bit for bit."""
    tensors = [
        (a[name].dtype, a[name].shape, a[name].tobytes()) == (b[name].dtype, b[name].shape, b[name].tobytes())
        for a, b in ((one.tensors, other.tensors), (one.masks, other.masks))
        for name in (a if a.keys() == b.keys() else {"": 0})
        if name in b or pytest.fail(f"{sorted(a.keys() ^ b.keys())} differ")
    ]
    return msgspec.json.encode(one.values) == msgspec.json.encode(other.values) and all(tensors)


@pytest.mark.parametrize("name", KINDS)
def test_honest_answers_pass_and_say_how_many_examples_are_behind_them(name: str) -> None:
    it = asked(name)
    part = measures.part_of(it.kind, it.args)
    for device, answer in zip(it.world.devices, it.answers, strict=True):
        it.kind.check(answer, it.args, it.model)
        assert answer.values["examples"] == len(measures.examples_of(device, part))
        assert not answer.masks


@pytest.mark.parametrize("name", KINDS)
def test_a_measurement_can_be_repeated_and_leaves_nothing_behind(name: str) -> None:
    it = asked(name)
    for device, answer in zip(it.world.devices, it.answers, strict=True):
        net = device.one_net
        assert same(it.kind.measure(device, it.request, 0), answer)
        assert all(tensor.grad is None and tensor.requires_grad for tensor in net.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("name", [name for name in KINDS if not CASES.get(name, Case()).by_batch])
def test_few_examples_at_a_time_say_the_same(name: str) -> None:
    it = asked(name)
    device = it.world.devices[0]
    few = it.kind.measure(device, it.request, 3)
    whole = it.kind.merge([it.answers[0]], it.args)
    for key, value in it.kind.merge([few], it.args).items():
        np.testing.assert_allclose(value, whole[key], rtol=1e-5, atol=1e-5 * np.abs(whole[key]).max(), err_msg=key)


@pytest.mark.parametrize("name", KINDS)
def test_merging_does_not_depend_on_the_order(name: str) -> None:
    it = asked(name)
    merged = it.kind.merge(it.answers, it.args)
    assert merged
    for order in itertools.permutations(it.answers):
        other = it.kind.merge(order, it.args)
        assert other.keys() == merged.keys()
        for key, value in other.items():
            np.testing.assert_allclose(value, merged[key], rtol=1e-12, atol=1e-14, err_msg=key)


@pytest.mark.parametrize("name", KINDS)
def test_merged_evidence_is_that_of_all_examples_pooled(name: str) -> None:
    it = asked(name)
    merged = it.kind.merge(it.answers, it.args)
    pooled = it.kind.merge([it.kind.measure(it.world.together, it.request, 0)], it.args)
    assert merged.keys() == pooled.keys()
    for key, value in merged.items():
        rtol = next((far for end, far in it.case.tolerance.items() if key.endswith(end)), 1e-6)
        np.testing.assert_allclose(value, pooled[key], rtol=rtol, atol=rtol * np.abs(pooled[key]).max(), err_msg=key)
    # devices differ, so that pooling is more than repeating one of them
    if not it.kind.private:
        for answer in it.answers:
            alone = it.kind.merge([answer], it.args)
            if any(not np.allclose(value, alone[key], rtol=1e-3) for key, value in merged.items()):
                return
        pytest.fail("every device says what all of them say")


@pytest.mark.parametrize("name", KINDS)
def test_nobody_who_answers_is_empty_evidence_or_a_statement_of_it(name: str) -> None:
    it = asked(name)
    merged = it.kind.merge([], it.args)
    assert not merged or merged["examples"] == 0


def damaged(it: Asked) -> Iterator[tuple[str, Payload]]:
    """An honest answer, spoilt in one place."""
    honest = it.answers[0]
    for lie in (2**63, -1, 1.5, "8", True, None):
        yield f"examples {lie!r}", measured_world.with_values(examples=lie)(honest)
    yield "no examples", honest._replace(values={k: v for k, v in honest.values.items() if k != "examples"})
    yield "a foreign tensor", honest._replace(tensors={**honest.tensors, "x/y": np.zeros(3, np.float32)})
    for key, value in honest.tensors.items():
        others = {
            "missing": None,
            "of another shape": value[None],
            "with a value more": np.append(value, value.reshape(-1)[:1]),
            "of another type": value.astype(np.float16 if value.dtype.kind == "f" else np.float32),
        }
        if value.dtype.kind == "f":
            for bad in (np.nan, np.inf, -np.inf):
                others[f"with {bad}"] = np.concatenate([[bad], value.reshape(-1)[1:]], dtype=value.dtype).reshape(
                    value.shape
                )
        for what, other in others.items():
            tensors = {name: tensor for name, tensor in honest.tensors.items() if name != key}
            yield f"{key} {what}", honest._replace(tensors=tensors if other is None else {**tensors, key: other})
    for what, damage in it.case.damages.items():
        yield what, damage(honest)


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_answer_is_refused_in_one_line(name: str) -> None:
    it = asked(name)
    for what, answer in damaged(it):
        reason = refusal(it.kind.check, answer, it.args, it.model)
        assert reason, f"{name} takes an answer: {what}"
        assert "\n" not in reason


def refusal(check: Callable[..., None], *given: Any) -> str:
    """Why a check refuses what it is given; empty where it does not."""
    try:
        check(*given)
    except ValueError as error:
        return str(error)
    return ""


def takes(it: Asked, request: Payload) -> None:
    """What a device makes sure of, besides the model's own tensors."""
    try:
        msgspec.convert(request.values, it.kind.values)
    except msgspec.ValidationError as error:
        raise ValueError(error) from error
    it.kind.accepts(it.world.slots, request)


@pytest.mark.parametrize("name", KINDS)
def test_an_honest_request_is_taken_and_a_damaged_one_is_not(name: str) -> None:
    it = asked(name)
    takes(it, it.request)
    own = {key: value for key, value in it.request.tensors.items() if "/" not in key}
    if it.kind.carries:
        assert own.keys() == it.model.params.keys()
    else:
        assert not own
        assert not it.request.masks
    foreign = it.request._replace(tensors={**it.request.tensors, "7/9.weight": np.zeros(4, np.float32)})
    wrong = {"a foreign tensor": foreign, **{what: damage(it.request) for what, damage in it.case.requests.items()}}
    if it.kind.values is not measures.NoValues:
        wrong["no values"] = it.request._replace(values={})
        assert it.case.requests, f"say in measured_world.CASES which requests {name} must refuse"
    for what, request in wrong.items():
        assert refusal(takes, it, request), f"{name} takes a request: {what}"


@pytest.mark.parametrize("name", KINDS)
def test_requests_and_answers_keep_their_bits_on_the_way(name: str) -> None:
    it = asked(name)
    crossed = from_records(to_records(it.request))
    assert same(crossed, it.request)
    for device, answer in zip(it.world.devices, it.answers, strict=True):
        # masks of the request shorten the tensors of their names, on either way
        assert same(from_records(to_records(answer, it.request.masks), it.request.masks), answer)
        assert same(it.kind.measure(device, crossed, 0), answer)


def size(payload: Payload) -> int:
    """Bytes of a payload's tensors and masks as the two ends count them."""
    return sum(len(key) + FRAME + value.nbytes for part in payload[1:] for key, value in part.items())


@pytest.mark.parametrize("name", KINDS)
def test_costs_are_those_of_the_measurement(name: str) -> None:
    it = asked(name)
    kind, shapes = it.kind, {key: slot.shape for key, slot in it.world.slots.items() if slot.trained}
    assert measures.part_of(kind, it.args) in (TRAIN, DEVELOPMENT)
    assert kind.passes >= 0
    assert kind.copies(it.args) >= 0
    assert kind.memory(shapes) >= 0
    model = sum(slot.nbytes + len(key) + FRAME for key, slot in it.world.slots.items())
    assert size(it.request) <= 2 * model * kind.carries + kind.most(it.world.slots, it.request.values) + _FRAMING
    most = (1 + kind.copies(it.args)) * size(it.request) + kind.answers(it.args, it.model) + _FRAMING
    for answer in it.answers:
        assert size(answer) <= most
    if kind.private:
        assert all(one.tensors[key].tobytes() == value.tobytes() for one in it.answers
                   for key, value in it.answers[0].tensors.items())  # fmt: skip
    if kind.backward:
        assert kind.memory(shapes) >= max(value.nbytes for answer in it.answers for value in answer.tensors.values())


def test_every_case_is_of_a_kind_and_every_kind_is_found_by_its_name() -> None:
    assert set(CASES) <= set(KINDS)
    for name in KINDS:
        assert isinstance(measures.find(name), Kind)
    with pytest.raises(KeyError, match=r"'nonsense' is no kind of evidence; there are accuracy, bn_statistics"):
        measures.find("nonsense")
