"""What the tests of the evolution protocol share: a random model, stand-ins for what it writes, and a small run."""

import pytest

from selfadapt.defaults import resolve
from selfadapt.domains.instructions import nodes
from selfadapt.protocols.defaults import protocol
from tests.domains.instructions import following
from tests.domains.instructions.worlds import random_rules_model


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    return str(random_rules_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module", autouse=True)
def generate():
    fake = following.Generate(following.piece_by_piece)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes, "generate", fake)
        yield fake


@pytest.fixture(scope="module")
def config_of(model_directory):
    def make_config(**changes):
        config = protocol("evolve")
        config.model, config.preset = model_directory, "tiny_lse"
        config.evaluation.contexts, config.domain.tree_rounds, config.domain.tree_edits = 5, 3, 2
        config.domain.batch = 3
        config.protocol.policy = model_directory
        for name, value in changes.items():
            *groups, leaf = name.split("__")
            group = config
            for part in groups:
                group = group[part]
            group[leaf] = value
        return resolve(config)

    return make_config
