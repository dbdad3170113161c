"""What a mapping makes of the description of a recorded table."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from optuna.distributions import BaseDistribution, CategoricalDistribution

from storage.distributions import distribution_of, fields_of
from storage.errors import ImportFailedError
from storage.importers.mapping import RunMapping, scaled
from storage.importers.recorded.space import Condition, Parameter, RecordedSpace


def mapped_space(space: RecordedSpace, mapping: RunMapping) -> RecordedSpace:
    """The description with what is renamed, scaled and dropped. Raises ImportFailedError."""
    metric = mapping.metric_name(space.metric)
    if mapping.metric not in (None, metric):
        raise ImportFailedError(f"{space.name!r} has the metric {metric!r}, not {mapping.metric!r}.")
    for word in ("task", "value"):
        if getattr(mapping, word) is not None:
            raise ImportFailedError(f"The recorded table {space.name!r} says itself what its {word}s are.")
    if mapping.replace:
        raise ImportFailedError(f"The values of {space.name!r} are what its space says: there is nothing to replace.")
    names = {parameter.name: mapping.rename.get(parameter.name, parameter.name) for parameter in space.parameters}
    for name, times in Counter(names.values()).items():
        if times > 1:
            raise ImportFailedError(f"{times} parameters of {space.name!r} are called {name!r} once renamed.")
    kept = mapping.params(dict.fromkeys(names))
    return replace(
        space,
        metric=metric,
        direction=mapping.direction or space.direction,
        factor=mapping.factor(metric),
        parameters=tuple(
            _mapped(parameter, names, kept, mapping) for parameter in space.parameters if names[parameter.name] in kept
        ),
    )


def _mapped(
    parameter: Parameter, names: Mapping[str, str], kept: Mapping[str, object], mapping: RunMapping
) -> Parameter:
    name, condition = names[parameter.name], parameter.condition
    if condition is not None:
        parent = names[condition.parent]
        is_the_same = parent in kept and parent not in mapping.scale and parent not in mapping.space
        condition = Condition(parent=parent, values=condition.values) if is_the_same else None
    factor = mapping.scale.get(name, 1.0)
    distribution = parameter.distribution if factor == 1.0 else _scaled(name, parameter.distribution, factor)
    return replace(
        parameter,
        name=name,
        distribution=distribution_of(name, mapping.space[name]) if name in mapping.space else distribution,
        condition=condition,
        optional=parameter.optional or (condition is not parameter.condition and condition is None),
        factor=factor,
    )


def _scaled(name: str, distribution: BaseDistribution, factor: float) -> BaseDistribution:
    if isinstance(distribution, CategoricalDistribution):
        raise ImportFailedError(f"{name} cannot be scaled: it is categorical.")
    fields = fields_of(distribution)
    if not float(factor).is_integer():
        fields["type"] = "float"
    bounds = {key: scaled(fields[key], factor) for key in ("low", "high", "step") if fields.get(key) is not None}
    return distribution_of(name, fields | bounds)
