"""The threshold of a face network with its measured errors, as it travels with a model.

Free of torch.
"""

import reprlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from .fairness import EVERYONE, GroupRates

VERIFICATION_METADATA = "verification"
"""Entry of the metadata of a checkpoint, an exported file or a gallery; see `Threshold`."""
NOT_BY_GROUP = (
    "errors by group were not measured; this does, and keeps them in the checkpoint: mobilevision "
    "verify --images celeba --layout celeba --groups Male Young --model face.ckpt --store"
)
_LONGEST_NAME = 200


class Threshold(NamedTuple):
    """The decision threshold between one person and two, with its measured errors.

    In a checkpoint, an exported file and a gallery it is plain data, the entry
    ``VERIFICATION_METADATA``; ``threshold`` and ``far`` alone are needed, and what else is there
    is left alone:

        {"threshold": 0.228, "far": 0.012, "dataset": "celeba val", "impostor_pairs": 3000,
         "groups": {"all": {"faces": 1807, "people": 82, "genuine": 21917, "impostors": 1609804,
                            "far": 0.0147, "frr": 0.0486}, "Male: yes": {...}, ...}}
    """

    similarity: float
    """Minimum cosine of one person."""
    far: float
    """Share of pairs of different people that reached it, the false accept rate."""
    dataset: str | None = None
    """Name of the faces that it was measured on; None where it is not known."""
    impostor_pairs: int | None = None
    """Number of those pairs; None where it is not known."""
    groups: Mapping[str, GroupRates] | None = None
    """The rates of ``GroupResult.named`` at this threshold; None where they were not measured."""

    @classmethod
    def from_metadata(cls, content: Any) -> "Threshold | None":
        """Read the entry of metadata, which may be a stranger's; None if nothing was measured.

        Raises:
            ValueError: It has another form.
        """
        if not isinstance(content, Mapping) and content is not None:
            raise _unlike("the metadata", content, "an object")
        if not content or content.get("threshold") is None or content.get("far") is None:
            return None
        groups = content.get("groups")
        if groups is not None:
            if not isinstance(groups, Mapping):
                raise _unlike("groups", groups, "an object")
            groups = {_text("groups", name): _group(name, rates)
                      for name, rates in groups.items()}  # fmt: skip
        dataset, pairs = content.get("dataset"), content.get("impostor_pairs")
        return cls(
            _number("threshold", content["threshold"], -1, 1),
            _number("far", content["far"], 0, 1),
            None if dataset is None else _text("dataset", dataset),
            None if pairs is None else _count("impostor_pairs", pairs),
            groups,
        )

    def to_metadata(self) -> dict[str, Any]:
        """Return the entry of metadata."""
        content = {"threshold": self.similarity, **self._asdict()}
        del content["similarity"]
        if self.groups is not None:
            content["groups"] = {name: rates._asdict() for name, rates in self.groups.items()}
        return {name: value for name, value in content.items() if value is not None}

    def chance_of_match(self, people: int, group: str | None = None) -> float:
        """Return the chance that a face of a stranger matches one of several people, about.

        It is 1 - (1 - FAR)^people, as if the people were chosen at random, with one face each.
        Where no pair reached the threshold, the FAR is taken to be the upper end of its 95 %
        interval, 3 in the number of pairs. With a group, all of them are of that group.
        """
        far, pairs = self.far, self.impostor_pairs
        if group is not None:
            rates = (self.groups or {})[group]
            far, pairs = rates.far or 0.0, rates.impostors
        if not far and pairs:
            far = min(3 / pairs, 1.0)
        return 1 - (1 - far) ** people

    def worst(self, rate: Literal["far", "frr"]) -> str | None:
        """Return the group with the highest rate; None where no group has a measured one."""
        groups = {name: getattr(rates, rate) for name, rates in (self.groups or {}).items()
                  if name != EVERYONE and getattr(rates, rate) is not None}  # fmt: skip
        return max(groups, key=groups.__getitem__) if groups else None

    def explain(self, people: int = 1) -> list[str]:
        """Return lines of text: the errors, for a search among people and in each group."""
        pairs = "" if self.impostor_pairs is None else f"{self.impostor_pairs:,} "
        where = "" if self.dataset is None else f" on {self.dataset}"
        lines = [
            f"threshold {self.similarity:.4f}: {_percent(self.far)} of {pairs}pairs of different "
            f"people reached it{where}"
        ]
        if people > 1:
            chance = _percent(self.chance_of_match(people))
            lines.append(
                f"a stranger is taken for one of {people:,} people with a chance of "
                f"{'about' if self.far else 'up to'} {chance}, more if they have several faces each"
            )
        return lines + self._explain_groups(people)

    def _explain_groups(self, people: int) -> list[str]:
        if not self.groups:
            return [NOT_BY_GROUP]
        shares = "; ".join(
            f"{name} {_percent(rates.far)}, {_percent(rates.frr)}"
            for name, rates in self.groups.items()
        )
        lines = [f"false accepts and false rejects by group: {shares}"]
        accepted, rejected = self.worst("far"), self.worst("frr")
        if accepted is not None:
            chance = _percent(self.chance_of_match(people, accepted))
            search = f", {chance} in a search among {people:,} of them" if people > 1 else ""
            far = _percent(self.groups[accepted].far)
            lines.append(f"most false accepts: {accepted}, {far}{search}")
        if rejected is not None:
            lines.append(f"most false rejects: {rejected}, {_percent(self.groups[rejected].frr)}")
        return lines


def _percent(rate: float | None) -> str:
    return "too few pairs" if rate is None else f"{100 * rate:.3g}%"


def _group(name: str, content: Any) -> GroupRates:
    place = f"groups, {name}"
    if not isinstance(content, Mapping):
        raise _unlike(place, content, "an object")
    counts, rates = GroupRates._fields[:4], GroupRates._fields[4:]
    return GroupRates(
        *(_count(f"{place}: {key}", content.get(key)) for key in counts),
        *(None if content.get(key) is None
          else _number(f"{place}: {key}", content[key], 0, 1) for key in rates),
    )  # fmt: skip


def _number(place: str, value: Any, least: float, most: float) -> float:
    if type(value) not in (int, float) or not least <= value <= most:  # NaN, too
        raise _unlike(place, value, f"a number from {least} to {most}")
    return float(value)


def _count(place: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise _unlike(place, value, "a number of things")
    return value


def _text(place: str, value: Any) -> str:
    """Return a stranger's text as it may be printed: no line breaks, no commands of a terminal."""
    if not isinstance(value, str):
        raise _unlike(place, value, "text")
    return "".join(each if each.isprintable() else "?" for each in value[:_LONGEST_NAME])


def _unlike(place: str, value: Any, wanted: str) -> ValueError:
    try:
        shown = reprlib.repr(value)
    except ValueError:  # an integer of too many digits
        shown = "a huge number"
    return ValueError(f"{place} of the measured threshold is {shown}, not {wanted}")
