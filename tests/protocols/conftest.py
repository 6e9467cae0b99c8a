"""What the protocols of knowledge incorporation share; each module brings its `small_config`."""

import dataclasses

import pytest

from selfadapt import load_model
from selfadapt.domains import make_domain
from tests.protocols.graders import Spelling
from tests.worlds import random_world_model


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    return random_world_model(tmp_path_factory.mktemp("world") / "model")


@pytest.fixture(scope="module")
def domain(small_config):
    config = small_config()
    return dataclasses.replace(make_domain(config, load_model(config.model)), grader=Spelling())
