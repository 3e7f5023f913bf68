"""Wires pipelines by name: signatures made from the parameter table, and inputs that go where their names are known.

A parameter keeps one name from the pipeline to the component that uses it. So a pipeline names neither its parameters nor
those of its steps: it is given all values as one mapping, and hands each step those that the step takes.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_pipelines.parameters import PIPELINES
from rlhf_tuning.parameters import PARAMETERS


class Values(dict[str, Any]):
    """What a pipeline was given, by name: kfp's channels, or constants."""

    def of(self, step: Any, **given: Any) -> dict[str, Any]:
        """Return the inputs of a component or a nested pipeline: the values that it has names for, and what is given.

        A parameter that the step needs and this pipeline does not have is at its default.
        """
        inputs = step.component_spec.inputs
        found = {name: value for name, value in self.items() if name in inputs} | given
        absent = {name for name, input in inputs.items() if name not in found and not input.optional}
        defaults = {name: PARAMETERS[name].default for name in absent & PARAMETERS.keys()}
        return found | {name: default for name, default in defaults.items() if default is not None}

    def adding(self, outputs: Mapping[str, Any]) -> "Values":
        """Return the values with a step's outputs, which take the place of what has their names."""
        return Values(self | dict(outputs))

    def without(self, *names: str) -> "Values":
        """Return the values but for some, which a step knows by the same name and is to take from elsewhere."""
        return Values({name: value for name, value in self.items() if name not in names})


def takes_parameters(pipeline: str, **others: Any) -> Callable[[Callable[[Values], Any]], Callable[..., Any]]:
    """Give a function of `Values` the parameters of `PIPELINES[pipeline]`, as kfp reads them.

    Names, types and defaults become its signature; the descriptions become the section `Args:` of its docstring, before its
    own section `Returns:`.

    Args:
        pipeline: Its name.
        others: Inputs that it has where another nests it, and their types, such as `dsl.Input[dsl.Dataset]`.
    """
    parameters = PIPELINES[pipeline]

    def decorate(function: Callable[[Values], Any]) -> Callable[..., Any]:
        types = others | {p.name: p.type for p in parameters}
        made = _with_inputs(function, types, {p.name: p.default for p in parameters})
        words, returns, outputs = inspect.cleandoc(function.__doc__ or "").partition("Returns:")
        described = "".join(f"    {parameter.name}: {parameter.description}\n" for parameter in parameters)
        made.__doc__ = f"{words}Args:\n{described}\n{returns}{outputs}"
        return made

    return decorate


def takes_inputs(*steps: Any, **others: Any) -> Callable[[Callable[[Values], Any]], Callable[..., Any]]:
    """Give a nested pipeline, a function of `Values`, the inputs that its steps need; it has no defaults of its own.

    Args:
        steps: Components and pipelines inside it. Those of their inputs that are parameters of the table become its own.
        others: Its further inputs and their types, such as `dsl.Input[dsl.Model]`.
    """
    taken = {name: parameter.type for name, parameter in PARAMETERS.items() if any(map(_takes(name), steps))}
    return lambda function: _with_inputs(function, others | taken, {})


def _takes(name: str) -> Callable[[Any], bool]:
    return lambda step: name in step.component_spec.inputs


def _with_inputs(
    function: Callable[[Values], Any], types: dict[str, Any], defaults: dict[str, Any]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def made(*channels: Any) -> Any:
        # kfp hands the channels over in the signature's order.
        return function(Values(zip(types, channels, strict=True)))

    inputs = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            annotation=annotation,
            default=inspect.Parameter.empty if defaults.get(name) is None else defaults[name],
        )
        for name, annotation in types.items()
    ]
    returned = inspect.signature(function).return_annotation
    made.__signature__ = inspect.Signature(inputs, return_annotation=returned)  # type: ignore[attr-defined]
    return made
