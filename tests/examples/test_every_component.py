from examples.every_component import every_component

import rlhf_components


def test_every_component_has_an_example_that_compiles() -> None:
    called = set(every_component.pipeline_spec.components)
    assert {f"comp-{name.replace('_', '-')}" for name in rlhf_components.__all__} <= called
