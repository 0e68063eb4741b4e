"""The run-time type checker of the tests: beartype that takes an int for a float, as Python's type system does."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
