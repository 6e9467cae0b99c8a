"""Subjects and databases as environments, and the choice of a source."""

import json

import pytest

from selfadapt.data import DataError
from selfadapt.defaults import experiment, resolve
from selfadapt.domains import make_domain, sql
from selfadapt.domains.instructions.environment import Environment
from selfadapt.errors import UserError
from selfadapt.types import ContextEdit
from tests.domains.instructions import following

EDIT = "Codes are numbers. <prompt>Return the letter between answer tags.</prompt>"


def config_of(**data):
    config = experiment("instructions")
    config.preset = "tiny_lse"
    config.data.update(data)
    config.answer.max_new_tokens, config.sampling.max_new_tokens = 64, 64
    config.domain.environments, config.evaluation.contexts = 3, 2
    return resolve(config)


def domain_of(**data):
    return make_domain(config_of(**data), following.model(100_000).model)


@pytest.fixture
def subjects(tmp_path):
    datasets = pytest.importorskip("datasets")
    for side in ("train", "eval"):
        for subject in ("art", "law"):
            rows = [
                {"question": f"{subject} {n}?", "choices": ["x", "y"], "answer": n % 2, "error_type": ""}
                for n in range(8)
            ]
            datasets.Dataset.from_list(rows).save_to_disk(tmp_path / side / subject)
    return {"source": "choice", "path": str(tmp_path / "train"), "eval_path": str(tmp_path / "eval"), "holdout": 3}


def test_each_subject_is_an_environment_and_comes_again_with_another_holdout(subjects):
    domain = domain_of(**subjects)
    train = [task.data.environment for task in domain.tasks("train", 3)]
    assert [environment.id for environment in train] == ["train-art-0", "train-law-0", "train-art-1"]
    assert train[0].holdout != train[2].holdout and len(train[0].pool) == 5
    assert not {p.id for p in train[0].holdout} & {p.id for p in train[0].pool}
    assert [task.id for task in domain.tasks("heldout", 2)] == ["heldout-art-0", "heldout-law-0"]
    with pytest.raises(UserError, match="have 2 environments to hold out, and 3 are needed"):
        domain.source.environments("heldout", 3)


def test_the_letter_between_the_tags_is_judged_and_the_edit_is_between_its_own(subjects):
    domain = domain_of(**subjects)
    (task,) = domain.tasks("heldout", 1)
    environment: Environment = task.data.environment
    truths = [problem.truth for problem in environment.holdout]
    answers = [f"<answer>{truths[0]}</answer>", truths[1], f"<answer>{'AB'.replace(truths[2], '')}</answer>"]
    verdicts = environment.verdicts(environment.holdout, answers)
    assert [verdict.reward for verdict in verdicts] == [1, 0, 0] == domain.grade([task], [answers])[0]
    assert [verdict.error for verdict in verdicts] == ["", "no letter is between answer tags", ""]
    applied = domain.apply(task, EDIT)
    assert applied == ContextEdit("Return the letter between answer tags.")
    prompts = domain.questions(task, applied.context)
    assert all(prompt.count(applied.context) == 2 and "A. x\nB. y" in prompt for prompt in prompts)
    assert "A. x\nB. y" in environment.pool[0].question and domain.oracle(task) is None
    assert environment.seed_instruction in domain.edit_prompt(task)


@pytest.fixture
def databases(tmp_path):
    sql.generate(tmp_path, seed=0, questions=10)
    folder = str(tmp_path)
    files = {"path": f"{folder}/dev.json", "databases": folder}
    return {"source": "sql", "holdout": 4, **files, **{f"eval_{name}": value for name, value in files.items()}}


def test_each_database_is_an_environment_whose_statements_are_run(databases):
    domain = domain_of(**databases, ids=("shop", "gym"), eval_ids=("clinic", "hotel"))
    train = [task.data.environment for task in domain.tasks("train", 3)]
    assert [environment.id for environment in train] == ["train-shop-0", "train-gym-0", "train-shop-1"]
    (task,) = domain.tasks("heldout", 1)
    environment: Environment = task.data.environment
    golds = [f"<answer>{problem.truth}</answer>" for problem in environment.holdout]
    assert domain.grade([task], [golds]) == [[1.0] * 4]
    answers = [golds[0], "SELECT 1", "<answer>SELECT 'no'</answer>", "<answer>DROP TABLE patients</answer>"]
    verdicts = environment.verdicts(environment.holdout, answers)
    assert [verdict.reward for verdict in verdicts] == [1, 0, 0, 0]
    assert verdicts[1].error == "no statement is between answer tags" and verdicts[3].error
    assert verdicts[2].error.startswith("it returns ('no',), and the right statement ")
    assert "CREATE TABLE" in environment.prompt(environment.holdout[0], "Be brief.")


def test_given_schemas_are_shown(databases, tmp_path):
    (tmp_path / "schemas.json").write_text(json.dumps({"shop": "A shop.", "gym": "A gym."}))
    schemas = {"schemas": str(tmp_path / "schemas.json"), "eval_schemas": str(tmp_path / "schemas.json")}
    ids = {"ids": ("shop",), "eval_ids": ("gym", "shop")}
    domain = domain_of(**databases, **schemas, **ids)
    assert "A gym." in domain.questions(domain.tasks("heldout", 1)[0], "")[0]
    with pytest.raises(UserError, match=r"schemas\.json has no schema of the database 'clinic'"):
        domain_of(**databases, **schemas, **ids | {"eval_ids": ("clinic",)})


def test_data_that_cannot_be_used_is_named(databases, subjects, tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.ids has 'zoo'; there are "):
        domain_of(**databases, ids=("zoo",))
    with pytest.raises(UserError, match=r"config\.data\.eval_databases is empty"):
        domain_of(**databases | {"eval_databases": ""})
    with pytest.raises(UserError, match=r"config\.data\.path is empty"):
        domain_of(**subjects | {"path": ""})
    with pytest.raises(UserError, match=r"config\.data\.holdout is 0"):
        domain_of(**subjects | {"holdout": 0})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no data set"):
        domain_of(**subjects | {"path": str(tmp_path / "empty")})
    broken = json.loads((tmp_path / "dev.json").read_text())
    broken[0]["SQL"] = "SELECT nothing"
    (tmp_path / "dev.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match="the gold statement of question .* does not run"):
        domain_of(**databases)


def test_a_chat_template_is_needed_for_chats(subjects):
    config = config_of(**subjects).unlock()
    config.domain.chat = True
    with pytest.raises(
        UserError, match=r"config\.domain\.chat is True, and the tokenizer of rules has no chat template"
    ):
        make_domain(config, following.model().model)
    config.domain.chat, config.domain.prompt = False, "better"
    with pytest.raises(
        UserError, match=r"config\.domain\.prompt is 'better'; it must be 'rewrite', or a template file"
    ):
        make_domain(config, following.model().model)
