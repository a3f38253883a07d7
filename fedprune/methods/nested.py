"""Unequal devices: one model whose smaller parts lie within its larger ones, each a method at its own size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fedprune.methods import asking
from fedprune.pruning import criteria, masks
from fedprune.pruning.nesting import counts, with_room
from fedprune.pruning.nesting import nested as best_within
from fedprune.pruning.parts import statistics, view
from fedprune.types import Ask, DeviceId, Found, Holder, Masks, Method, Model, Params, Part, Tensor, Trained

Order = Callable[[Model, str, Mapping[DeviceId, Trained]], Mapping[str, Tensor]]
"""(model, part, what devices brought) -> layer -> scores by which the part's masks are drawn again."""

_ORDER = "order/"


def nested(methods: Mapping[str, Method], order: Order | None = None) -> Method:
    """One method for devices of unequal budgets, of a method at each part's size, the largest first.

    Round 0 is the parts' own, one after the other, each within the masks of the next larger. Later rounds are those of
    the largest; the smaller are drawn again within it, each keeping as many weights of a layer as its own method says:
    the best by ``order``, else by magnitude. Parts of whole channels nest by themselves. What the server's pretraining
    prunes is the largest's.
    """
    largest = next(iter(methods))
    main = methods[largest]

    def start(params: Mapping[str, Tensor]) -> Model:
        # dense until round 0 is over: what a part keeps beside its weights, it takes from all of them
        return main.start(params)._replace(params=params, masks={}, parts={})

    def part(model: Model, holder: Holder) -> Part:
        return methods[holder.part].part(model, holder)

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        if round:
            return {
                name: ask._replace(part=largest) for name, ask in main.asks(view(model, largest), round, found).items()
            }
        return _begun(methods, model, found)[1]

    def act(model: Model, found: Found, round: int) -> Model:
        if not round:
            return _joined(model, _begun(methods, model, found)[0])
        if not model.masks:
            return model
        seen = view(model, largest)
        new, parts = main.act(seen, found, round), model.parts
        own = statistics(new.params)
        if not masks.equal(own, statistics(seen.params)):  # rewound, for example
            parts = {name: part._replace(params=own) for name, part in parts.items()}
        return _renested(methods, model, Model(new.params, new.masks, new.memory, parts), round)

    def join(model: Model, trained: Mapping[DeviceId, Trained]) -> Model:
        model = main.join(model, trained)
        if order is None or not model.masks:
            return model
        orders = {
            f"{_ORDER}{name}/{layer}": scores
            for name in list(model.parts)[1:]
            for layer, scores in order(model, name, trained).items()
        }
        return model._replace(memory={**model.memory, **orders})

    return Method(start, part, main.local, join, asks, act, main.pretraining)


def why_not_shared(method: Method, zeros: Params) -> str:
    """Why tiers cannot each have this method at their own density or width; empty where they can."""
    begun, acted = method.start(zeros), asking.begun(method, zeros)[0]
    if acted.parts and not begun.parts:
        return "chooses one set of channels for all before training, so tiers have none to differ by"
    if begun.masks and method.part is not Method._field_defaults["part"]:
        return "gives each device a mask of its own, so tiers cannot differ by their density"
    return ""


def _begun(methods: Mapping[str, Method], model: Model, found: Found) -> tuple[dict[str, Model], dict[str, Ask]]:
    """(the parts that are settled by what was found, what the next one asks)."""
    settled: dict[str, Model] = {}
    larger: Masks | None = None
    for name, method in methods.items():
        begun, prefix = method.start(model.params), f"{name}/"
        if larger is not None:
            begun = begun._replace(masks=masks.intersect(begun.masks, larger))
        mine = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
        asked = {key: ask for key, ask in method.asks(begun, 0, mine).items() if key not in mine}
        if asked:
            return settled, {prefix + key: ask._replace(part=name) for key, ask in asked.items()}
        chosen = method.act(begun, mine, 0)
        larger = chosen.masks if larger is None else masks.intersect(chosen.masks, larger)
        settled[name] = chosen._replace(masks=larger)
    return settled, {}


def _joined(dense: Model, settled: Mapping[str, Model]) -> Model:
    """The model that training begins with: every part beside it, under the masks of the largest.

    Where parts are whole channels the server keeps every weight: a window that no device trains now may return.
    """
    parts = {
        name: next(iter(each.parts.values()), Part(statistics(each.params), each.masks))
        for name, each in settled.items()
    }
    first = next(iter(settled.values()))
    return Model(masks.apply(first.params, first.masks), first.masks, first.memory, parts)


def _renested(methods: Mapping[str, Method], before: Model, model: Model, round: int) -> Model:
    """The model with every part nested in the next larger one again, after the masks of the largest have changed.

    What a smaller part keeps is decided on the weights as they were trained, ``before`` the largest part acted.
    """
    changed = {name for name, mask in model.masks.items() if not np.array_equal(mask, before.masks[name])}
    parts: dict[str, Part] = {}
    for name, part in model.parts.items():
        if not parts:
            parts[name] = part._replace(masks=model.masks)
            continue
        had = counts(part.masks)
        wanted = counts(methods[name].act(view(before, name), {}, round).masks)
        within = next(reversed(parts.values())).masks
        wanted = with_room(wanted, counts({layer: within[layer] for layer in wanted}))
        kept = {layer: count for layer, count in wanted.items() if layer in changed or count != had[layer]}
        order = {layer: _scores(before, name, layer) for layer in kept}
        parts[name] = part._replace(masks={**part.masks, **best_within(order, kept, within)})
    memory = {key: value for key, value in model.memory.items() if not key.startswith(_ORDER)}
    return model._replace(parts=parts, memory=memory)


def _scores(model: Model, part: str, layer: str) -> Tensor:
    found = model.memory.get(f"{_ORDER}{part}/{layer}")
    return criteria.magnitude(model.params[layer]) if found is None else found
