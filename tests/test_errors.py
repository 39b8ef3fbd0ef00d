"""Exceptions: one tree, and messages that name the argument, what was expected, and the nearest name."""

from __future__ import annotations

import pytest

from nndiag import errors
from nndiag.errors import ConfigurationError

TREE = {
    errors.ConfigurationError: ValueError,
    errors.IncompatibleStatisticsError: ValueError,
    errors.CheckpointError: ValueError,
    errors.MissingDependencyError: ImportError,
}


@pytest.mark.parametrize(("kind", "builtin"), TREE.items(), ids=lambda kind: kind.__name__)
def test_every_exception_is_ours_and_a_builtin(kind, builtin):
    assert issubclass(kind, errors.NNDiagError)
    assert issubclass(kind, builtin)


def test_the_tree_at_the_top_of_the_file_is_complete():
    ours = {k.__name__ for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)}
    assert ours == {"NNDiagError", *(kind.__name__ for kind in TREE)}
    assert all(name in errors.__doc__ for name in ours)


def test_unknown_name_with_a_near_one():
    error = ConfigurationError.unknown("measures", "saturatoin", ["saturation", "data"])
    assert str(error) == (
        "`measures`: 'saturatoin' is not known. Did you mean 'saturation'? Expected one of: data, saturation."
    )


def test_unknown_name_with_none_near():
    assert "Did you mean" not in str(ConfigurationError.unknown("measures", "zzz", ["saturation", "data"]))


@pytest.mark.parametrize("value", [3, None, 1.5, ("a",)])
def test_unknown_value_of_another_type(value):
    assert repr(value) in str(ConfigurationError.unknown("stop_on", value, ["info"]))


def test_unknown_name_where_none_is_known():
    assert str(ConfigurationError.unknown("layers", "fc", [])) == "`layers`: 'fc' is not known."


def test_thousands_of_names_are_not_listed():
    names = [f"blocks.{index}.fc" for index in range(3000)]
    message = str(ConfigurationError.unknown("layers", "blocks.7.fx", names))
    assert "Did you mean 'blocks.7.fc'?" in message
    assert message.endswith(" and 2960 more.")
    assert len(message) < 1500


def test_expected():
    assert (
        str(ConfigurationError.expected("probe", "True or False", "no"))
        == "`probe` must be True or False, got 'no'."
    )
