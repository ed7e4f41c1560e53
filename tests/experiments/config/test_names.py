"""Names read from source are those that the registries hold once they are loaded."""

from __future__ import annotations

import pytest
from support.tiny_experiment import write_config

from graft.agents.networks.encoder import ENCODERS
from graft.errors import GraftError
from graft.experiments.config.backends import BACKENDS, backend
from graft.experiments.config.experiment import load_config
from graft.experiments.config.names import check_names, registered_names
from graft.transfer import METHODS

REGISTRIES = {
    "graft.agents.networks.encoders": ENCODERS,
    "graft.transfer.methods": METHODS,
    **{f"{entry.package}.algorithms": backend(name).ALGORITHMS for name, entry in BACKENDS.items()},
}


@pytest.mark.parametrize("package", REGISTRIES)
def test_source_holds_the_names_of_the_registry(package):
    assert registered_names(package) == set(REGISTRIES[package])


def test_tasks_are_checked_with_their_keywords(tmp_path):
    check_names(load_config(str(write_config(tmp_path))))
    with pytest.raises(GraftError, match="slip=2 is not allowed"):
        check_names(load_config(str(write_config(tmp_path)), ["targets.0.kwargs.slip=2"]))
