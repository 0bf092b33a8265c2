"""What distinguishes two listings: classes and protocols, and what they declare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ane_train.explore.listing import Class, Listing, Method

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
Items = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """verdict: what became of `name` from the first listing to the second.

    before and after: type encodings and the like, "" where there is none.
    """

    verdict: str
    name: str
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        if self.verdict == CHANGED:
            return f"{self.name} is {self.after}, was {self.before}"
        return f"{self.name} {self.before or self.after}".strip()


def compare(before: Listing, after: Listing) -> list[Difference]:
    """Every difference, by class. What a partial listing does not tell is no difference."""
    partial = before.partial or after.partial
    old, new = _owners(before), _owners(after)
    found: list[Difference] = []
    for name in sorted(old.keys() | new.keys(), key=_last_word):
        if name not in new:
            found.append(Difference(REMOVED, name, before=_size(old[name])))
        elif name not in old:
            found.append(Difference(ADDED, name, after=_size(new[name])))
        else:
            for one, other in zip(old[name], new[name], strict=True):
                if not partial or (one and other):
                    found += _differences(one, other)
    return found


def _last_word(name: str) -> str:
    return name.split()[-1]


def _differences(old: Items, new: Items) -> Iterator[Difference]:
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield Difference(REMOVED, name, before=old[name])
        elif name not in old:
            yield Difference(ADDED, name, after=new[name])
        elif old[name] and new[name] and old[name] != new[name]:
            yield Difference(CHANGED, name, old[name], new[name])


def _owners(listing: Listing) -> dict[str, list[Items]]:
    """By class or protocol, what it declares: the sorts in a fixed order, methods last."""
    owners = {f"class {each.name}": _declared(each) for each in listing.classes}
    for each in listing.protocols:
        owners[f"protocol {each.name}"] = [_methods(each.name, each.methods)]
    return owners


def _declared(each: Class) -> list[Items]:
    owner = each.name
    return [
        {f"superclass of {owner}": each.superclass} if each.superclass else {},
        {f"{owner} <{name}>": "" for name in each.protocols},
        {f"{one.kind} @property {owner}.{one.name}": one.attributes for one in each.properties},
        {f"{owner}->{one.name}": one.encoding for one in each.variables},
        _methods(owner, each.methods),
    ]


def _methods(owner: str, methods: tuple[Method, ...]) -> Items:
    """Without the compiler's own, whose names begin with a dot and which nobody sends."""
    return {
        f"{each.kind}[{owner} {each.name}]": f"{each.encoding} @optional"
        if each.optional
        else each.encoding
        for each in methods
        if not each.name.startswith(".")
    }


def _size(parts: list[Items]) -> str:
    count = len(parts[-1])
    return f"with {count} method{'s' * (count != 1)}"
