"""The knowledge domain as a config describes it: prompts, updates, graders, sources."""

import copy
import dataclasses
import json

import pytest
import tokenizers

from selfadapt import ContextEdit, Edit, Model, Question, Task, TokenSequence, Update, adapt, load_model, loop, merge
from selfadapt.defaults import experiment, resolve
from selfadapt.domains import make_domain
from selfadapt.domains.knowledge import Knowledge, Passages, make
from selfadapt.errors import InvalidEdit, UserError
from selfadapt.loop import Settings
from selfadapt.models.policy import Policy, State
from selfadapt.outer.rest_em import RestEM
from selfadapt.outer.select import Selection

SETTINGS = dataclasses.replace(
    Settings.of(resolve(experiment())), edits=2, edit_tokens=12, answer_tokens=6, answer_stop=("\n",)
)
CHAT = (
    "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}</{{ turn.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TASK = Task("p", "Passage.", (Question("Why?", ("so",)), Question("When?", ("now", "today"))), "Title")


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def config(**fields):
    """Returns a resolved experiment; a field's groups are joined by double underscores."""
    config = experiment()
    for name, value in fields.items():
        *groups, leaf = name.split("__")
        group = config
        for part in groups:
            group = group[part]
        group[leaf] = value
    return resolve(config)


def with_tokenizer(model, change):
    """Returns the model with a changed copy of its tokenizer."""
    tokenizer = copy.deepcopy(model.tokenizer)
    change(tokenizer)
    return Model(model.config, model.params, tokenizer, generation_config=model.generation_config)


def chatting(model):
    return with_tokenizer(model, lambda tokenizer: setattr(tokenizer, "chat_template", CHAT))


def test_a_chat_is_the_edit_prompt_of_instruct_models(tiny):
    domain = make_domain(config(domain__chat=True), chatting(tiny))
    task = domain.tasks("train", 1)[0]
    system, user = domain.edit_prompt(task).split("</system>")
    assert system.startswith("<system>You prepare study notes")
    assert user == f"<user>{task.title}\n{task.context}\n\nTake notes.</user><assistant>"


@pytest.mark.slow
def test_a_round_trains_the_policy_on_edits_of_its_chat(tiny):
    model = chatting(tiny)
    domain = make_domain(config(domain__chat=True, domain__baseline="unchanged", inner__epochs=1), model)
    tasks = domain.tasks("train", 1)
    policy = Policy(model)
    update = RestEM(Selection("best"), Update((), rank=2, alpha=4, learning_rate=1e-3, epochs=1))
    state, done = loop.run_round(State(policy, policy), domain, tasks, update, SETTINGS)
    assert [outcome.edit.prompt for outcome in done.outcomes] == [domain.edit_prompt(tasks[0])] * 2
    assert done.outcomes[0].edit.prompt.startswith("<system>")
    assert state.policy.version == 1


def test_the_token_at_the_beginning_of_a_text_is_not_doubled_by_the_chat(tiny):
    def begins(tokenizer):
        tokenizer.add_special_tokens({"bos_token": "<s>"})
        tokenizer.chat_template = "{{ bos_token }}" + CHAT
        pairs = [("<s>", tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", special_tokens=pairs
        )

    model = with_tokenizer(tiny, begins)
    domain = make(config(domain__chat=True), model, source=Passages("here", (), ()))
    ids = model.tokenizer(domain.edit_prompt(TASK))["input_ids"]
    assert ids[0] == model.tokenizer.bos_token_id
    assert ids.count(model.tokenizer.bos_token_id) == 1


def test_a_chat_needs_a_tokenizer_with_a_chat_template(tiny):
    with pytest.raises(
        UserError, match=r"config\.domain\.chat is True, and the tokenizer of tiny has no chat template"
    ):
        make_domain(config(domain__chat=True), tiny)


def test_the_model_judges_answers_with_the_prompt_of_the_config(tiny, tmp_path):
    (tmp_path / "judge.txt").write_text("{question}|{gold}|{answer}|")
    fields = dict(grader__name="model", grader__prompt=str(tmp_path / "judge.txt"))
    student = Policy(tiny)
    domain = make_domain(config(), tiny)
    tasks = domain.tasks("heldout", 1)
    untouched = [(Edit(tasks[0].id, 0, "", ""), domain.unchanged(tasks[0]))]
    (before,) = loop.score(student, domain, tasks, untouched, SETTINGS)
    # The judge is trained to give a fixed verdict on each of these answers.
    wanted = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    prompts = [
        f"{question.question}|{question.answers[0]}|{answer.strip()}|"
        for question, answer in zip(tasks[0].questions, before.answers, strict=True)
    ]
    lessons = [(prompt, " Yes.\n" if verdict else " No.\n") for prompt, verdict in zip(prompts, wanted, strict=True)]
    lesson = Update(lessons, rank=8, targets="all-linear", learning_rate=1e-2, epochs=40, batch_size=6, loss="target")
    judge = merge(tiny, adapt(tiny, [lesson])[0])
    (after,) = loop.score(student, make_domain(config(**fields), judge, tiny), tasks, untouched, SETTINGS)
    assert list(after.verdicts) == wanted and after.reward == 0.5
    assert after.answers == before.answers
    (untrained,) = loop.score(student, make_domain(config(**fields), tiny), tasks, untouched, SETTINGS)
    assert list(untrained.verdicts) == [0.0] * 6  # the model before that training answers neither yes nor no


def test_the_grader_of_a_config_is_chosen_by_its_source_or_by_name(tiny):
    def grader(source="tiny_world", **fields):
        own = None if source == "tiny_world" else Passages("here", (), ())
        return repr(make(config(**fields), tiny, source=own).grader)

    assert grader() == "Exact()"
    assert grader("passages") == "Containment()"
    assert grader(grader__name="token-f1", grader__threshold=0.5) == "TokenF1(threshold=0.5)"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grader__name": "log-likelihood"}, "which scores gold answers"),
        ({"grader__name": "exakt"}, "did you mean 'exact'"),
        ({"grader__threshold": 0.5}, "grader 'exact': .*threshold"),
        ({"grader__prompt": "judge.txt"}, r"config\.grader\.prompt: judge\.txt: the prompt template cannot be read"),
        ({"domain__prompt": "edit.txt"}, r"config\.domain\.prompt: edit\.txt: the prompt template cannot be read"),
        (
            {"domain__answer_prompt": "a.txt"},
            r"config\.domain\.answer_prompt: a\.txt: the prompt template cannot be read",
        ),
        ({"domain__prompt": "note"}, "no edit prompt 'note'; did you mean 'notes'"),
        ({"domain__answer_prompt": "long"}, "no answer prompt 'long'"),
        ({"domain__answer_prompt": "cot"}, r"config\.answer\.stop has a line break, which would end the thoughts"),
        ({"domain__split": "line"}, r"config\.domain\.split is 'line'; it must be one of lines, document"),
        ({"domain__baseline": "none"}, r"config\.domain\.baseline is 'none'; it must be one of passage, unchanged"),
        ({"domain__padding": "full"}, r"config\.domain\.padding is 'full'; it must be one of none, seal"),
        ({"domain__max_segments": -1}, r"config\.domain\.max_segments is -1; it must be at least 0"),
        ({"domain__name": "knowlege"}, r"config\.domain\.name is 'knowlege'.*did you mean 'knowledge'"),
        ({"domain__name": "tiny"}, r"config\.domain\.name is 'tiny', and there is no such module"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(tiny, fields, message):
    with pytest.raises(UserError, match=message):
        make_domain(config(**fields), tiny)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("grader__prompt", "{question} {answer}", r"config\.grader\.prompt: .*\{gold\} is missing"),
        ("domain__prompt", "{context}", r"config\.domain\.prompt: .*\{title\} is missing"),
        ("domain__answer_prompt", "{title}", r"config\.domain\.answer_prompt: .*\{question\} is missing"),
    ],
)
def test_a_wrong_template_is_named_with_its_field(tiny, tmp_path, field, text, message):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        make_domain(config(**{field: str(path), "grader__name": "model"}), tiny)


def test_templates_of_the_config_are_the_prompts_for_edits_and_answers(tiny, tmp_path):
    (tmp_path / "edit.txt").write_text("Read {title}: {context} =>")
    (tmp_path / "answer.txt").write_text("About {title}: {question} =>")
    files = dict(domain__prompt=str(tmp_path / "edit.txt"), domain__answer_prompt=str(tmp_path / "answer.txt"))
    domain = make(config(**files), tiny, source=Passages("here", (), ()))
    assert domain.edit_prompt(TASK) == "Read Title: Passage. =>"
    assert domain.questions(TASK, "") == ["About Title: Why? =>", "About Title: When? =>"]


class Sentences:
    """A user's source: any number of passages of one sentence."""

    name = "my sentences"
    grader = "token-f1"

    def tasks(self, split, count, round=0):
        return [
            dataclasses.replace(TASK, id=f"{split} {round} {i}", context=f"Sentence {i}." * (99 if i == 5 else 1))
            for i in range(count)
        ]

    def oracle(self, task):
        return f"Mine of {task.id}"

    def describe(self, task, text):
        return {"mine": 1}


def test_a_users_source_supplies_tasks_oracle_descriptions_and_the_grader(tiny):
    domain = make(config(), tiny, source=Sentences())
    task = domain.tasks("train", 2, 3)[1]
    assert (task.id, domain.oracle(task), domain.describe(task, "x")) == ("train 3 1", "Mine of train 3 1", {"mine": 1})
    assert repr(domain.grader) == "TokenF1(threshold=None)"
    assert domain.grade([task], [["so", "to day now"]]) == [[1.0, 0.5]]


def test_a_passage_too_long_for_the_policys_context_is_named_with_the_numbers(tiny):
    domain = make(config(), tiny, source=Sentences())
    with pytest.raises(
        UserError, match=r"my sentences: the passage 'Title' \(train 0 5\) makes an edit prompt of 1\d\d\d"
    ):
        domain.tasks("train", 6)


def test_seals_padding_needs_a_token_to_pad_with(tiny):
    endless = Model(dataclasses.replace(tiny.config, eos_token_ids=()), tiny.params, tiny.tokenizer)
    with pytest.raises(
        UserError, match=r"config\.domain\.padding is 'seal', and the model has no end-of-sequence token"
    ):
        make(config(domain__padding="seal"), tiny, endless)


def squad(path, *passages):
    questions = [{"question": "Who?", "answer": "He"}]
    path.write_text(json.dumps([{"title": f"T{i}", "context": text, "questions": questions}
                                for i, text in enumerate(passages)]))  # fmt: skip
    return str(path)


def test_long_passages_are_left_out_if_the_config_says_so_and_named_if_not(tiny, tmp_path):
    # 400 characters, and 1200 bytes, each of which is a token to this tokenizer.
    path = squad(tmp_path / "p.json", "A short passage.", "漢" * 400, "Another short one.")
    with pytest.raises(
        UserError, match=r"p\.json: the passage 'T1' .* context of 1024 leaves 864; set config\.data\.skip"
    ):
        make_domain(config(data__path=path, evaluation__contexts=1), tiny)
    domain = make_domain(config(data__path=path, evaluation__contexts=1, data__skip_long=True), tiny)
    contexts = {domain.tasks(split, 1)[0].context for split in ("train", "heldout")}
    assert contexts == {"A short passage.", "Another short one."}


def test_the_policys_context_bounds_prompts_and_the_students_bounds_sequences(tiny):
    small = Model(dataclasses.replace(tiny.config, max_position_embeddings=200), tiny.params, tiny.tokenizer)
    long = dataclasses.replace(TASK, context="x" * 500)
    domain = make(config(), tiny, small, source=Passages("here", (long,), ()))
    assert domain.tasks("train", 1) == [long]
    (cut,) = domain.apply(long, None).sequences
    assert isinstance(cut, TokenSequence) and len(cut.ids) == 200
    assert cut.ids == tuple(tiny.tokenizer("Title\n" + "x" * 500)["input_ids"][:200])
    with pytest.raises(UserError, match="the model's context of 200 leaves 40"):
        make(config(), small, tiny, source=Passages("here", (long,), ())).tasks("train", 1)


def test_a_text_of_many_bytes_is_cut_to_the_context_although_it_has_few_characters(tiny):
    domain = make(config(), tiny, source=Passages("here", (), ()))
    (line, passage) = domain.apply(TASK, "漢" * 400).sequences
    assert len(line.ids) == 1024
    assert passage == "Title\nPassage."


def test_seals_padding_fills_sequences_with_trained_end_tokens_that_nothing_attends_to(tiny):
    domain = make(config(domain__padding="seal"), tiny, source=Passages("here", (), ()))
    (sequence,) = domain.apply(TASK, None).sequences
    text = tiny.tokenizer("Title\nPassage.")["input_ids"]
    assert list(sequence.ids) == text + [tiny.tokenizer.eos_token_id] * (1024 - len(text))  # 2048, or the context
    assert list(sequence.attention) == [True] * len(text) + [False] * (1024 - len(text))
    assert sequence.mask is None


def test_edits_become_updates_with_the_configs_hyper_parameters(tiny):
    fields = dict(inner__rank=3, inner__targets="q_proj,v_proj", inner__seed=7, domain__max_segments=2)
    domain = make(config(**fields), tiny, source=Passages("here", (), ()))
    update = domain.apply(TASK, "one\ntwo\nthree")
    assert update.sequences == ("Title\none", "Title\ntwo", "Title\nPassage.")
    assert (update.rank, update.targets, update.seed) == (3, ("q_proj", "v_proj"), 7)
    whole = make(config(domain__split="document", domain__max_segments=0), tiny, source=Passages("here", (), ()))
    assert whole.apply(TASK, "one\ntwo\nthree").sequences == ("Title\none\ntwo\nthree", "Title\nPassage.")


def test_the_baseline_is_the_passage_alone_or_the_unchanged_model(tiny):
    passage, unchanged = (
        make(config(domain__baseline=name), tiny, source=Passages("here", (), ())) for name in ("passage", "unchanged")
    )
    assert isinstance(passage, Knowledge)
    assert passage.baseline(TASK) == passage.apply(TASK, None)
    assert unchanged.baseline(TASK) == unchanged.unchanged(TASK)


def test_questions_are_asked_without_the_passage(tiny):
    first, second = make_domain(config(), tiny).questions(TASK, "")
    assert "Why?" in first and "When?" in second
    assert TASK.context not in first + second


def test_the_passage_stands_in_the_prompt_of_a_reference_row_that_is_asked_for(tiny):
    assert make(config(), tiny, source=Passages("here", (), ())).references([TASK]) == {}
    domain = make(config(domain__passage_in_prompt=True), tiny, source=Passages("here", (), ()))
    assert domain.references([TASK, TASK]) == {"passage in prompt": [ContextEdit("Passage.")] * 2}
    first, second = domain.questions(TASK, "Passage.")
    assert first == "Title\nPassage.\nQuestion: Why? Answer:" and "When?" in second


def test_a_passage_that_does_not_fit_with_its_questions_is_named_before_anything_is_computed(tiny):
    small = Model(dataclasses.replace(tiny.config, max_position_embeddings=60), tiny.params, tiny.tokenizer)
    domain = make(config(domain__passage_in_prompt=True), tiny, small, source=Passages("here", (), ()))
    long = dataclasses.replace(TASK, context="漢" * 30)  # a token for each byte
    with pytest.raises(UserError, match=r"passage 'Title' \(p\) .* prompt of 1\d\d tokens; .*_tokens=8 .* leaves 52\."):
        domain.references([TASK, long])


def test_the_passage_in_the_prompt_needs_a_place_in_the_users_template(tiny, tmp_path):
    (tmp_path / "answer.txt").write_text("About {title}: {question} =>")
    fields = dict(domain__answer_prompt=str(tmp_path / "answer.txt"), domain__passage_in_prompt=True)
    with pytest.raises(UserError, match=r"has no \{context\}, and there is a context to answer from"):
        make(config(**fields), tiny, source=Passages("here", (), ())).references([TASK])


@pytest.mark.parametrize(
    ("fields", "marker"),
    [({"domain__prompt": "implications-cot"}, "Implications:"), ({"domain__keep_after": "So:"}, "So:")],
)
def test_thoughts_before_the_marker_are_not_trained_on_and_an_edit_of_thoughts_alone_is_rejected(tiny, fields, marker):
    domain = make(config(**fields), tiny, source=Sentences())
    assert domain.apply(TASK, f"So many thoughts.\n{marker}\none\ntwo").sequences == (
        "Title\none",
        "Title\ntwo",
        "Title\nPassage.",
    )
    with pytest.raises(InvalidEdit, match=f"no line of the edit begins with '{marker}'"):
        domain.apply(TASK, "So many thoughts.")
    assert domain.describe(TASK, "So many thoughts.") == {}
    assert domain.apply(TASK, domain.oracle(TASK)).sequences[0] == "Title\nMine of p"


def test_answers_after_thoughts_are_graded_without_them_and_unparsable_ones_are_wrong(tiny):
    fields = dict(domain__answer_prompt="cot", answer__stop=(), grader__name="containment")
    domain = make(config(**fields), tiny, source=Sentences())
    assert domain.questions(TASK, "")[0].endswith("Question: Why?\nThoughts:")
    assert domain.grade([TASK], [["It is so. <answer>so</answer>", "Now. <answer>never</answer>"]]) == [[1.0, 0.0]]
    assert domain.grade([TASK], [["so", "today <answer>today"]]) == [[0.0, 0.0]]
