"""All figures of a set of images against a reference in one feature network, with what it takes to compare them."""

from __future__ import annotations

from typing import Any

from .distances import compare, floor, inception_score
from .features import FeatureNetwork
from .statistics import Statistics


def figures(network: FeatureNetwork, own: Statistics, reference: Statistics) -> dict[str, Any]:
    """Distances, precision and recall by name; `floor`: those of the reference to itself; `network`: its facts."""
    values = compare(own, reference, network.names)
    if network.names.is_inception and own.probabilities is not None:
        score = inception_score(own.probabilities)
        values |= {"inception_score": score.mean, "inception_score_std": score.std}
    if network.class_names and own.agreement.labelled:
        values["class_agreement"] = own.agreement.matched / own.agreement.labelled
    noise = floor(reference, own.count, network.names)
    assert own.moments is not None
    about = {"dimension": len(own.moments.mean)} | network.describe()
    return values | {"floor": noise, "network": about}


def flat(found: dict[str, Any]) -> dict[str, Any]:
    """The figures in one level: `floor_...` for those of the reference to itself."""
    plain = {name: value for name, value in found.items() if name not in ("floor", "network")}
    noise = {f"floor_{name}": value for name, value in found["floor"].items()}
    return plain | noise | found["network"]
