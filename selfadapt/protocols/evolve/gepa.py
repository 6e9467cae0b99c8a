"""GEPA (arXiv 2507.19457) on instructions, by the package `gepa`, with as many answers as a tree takes.

Each environment has a run of `gepa.optimize`: the candidate is the instruction, the training set the pool, the
validation set the holdout. The runs are in lock step (`lockstep`), so that what they ask for is answered in batches,
and each step is a unit of work, so that a run that is repeated after an interruption gets the same answers.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from selfadapt.checkpoint import units
from selfadapt.domains.instructions import Environment, Evaluated, Instructions, Problem, Verdict, Writer
from selfadapt.domains.instructions.growing import INVALID, SCORES
from selfadapt.domains.instructions.nodes import Asked, answered, continued, summary_from_json, summary_to_json
from selfadapt.domains.instructions.style import TaggedStyle
from selfadapt.errors import InvalidEdit, MissingPackageError
from selfadapt.protocols.evolve.lockstep import Ask, run_together
from selfadapt.protocols.evolve.output import ANSWERS, REJECTED
from selfadapt.search import Tree
from selfadapt.telemetry.progress import Advance, Phase
from selfadapt.templates import chat_text

COMPONENT = "instruction"  # the only text of a candidate
WORSE = "no better than its parent on the problems that it was written from"


class _Write(NamedTuple):
    """A request for an edit: the prompt, and the number of earlier ones."""

    prompt: str
    number: int


class _Evaluate(NamedTuple):
    """A request for answers."""

    instruction: str
    problems: tuple[Problem, ...]


def package() -> Any:
    """Returns the package `gepa`, imported when it is needed.

    Raises:
      MissingPackageError: it is not installed.
    """
    try:
        import gepa
    except ImportError as error:
        raise MissingPackageError("GEPA needs an extra: pip install 'selfadapt[gepa]'") from error
    return gepa


def optimize(
    editor: Writer, domain: Instructions, student: Writer, environments: Sequence[Environment], phase: Phase
) -> list[Tree]:
    """Returns the candidates that GEPA accepts for each environment, as a tree.

    Args:
      editor: reflects and writes instructions: in the domain's style, or with GEPA's prompt if that is `TaggedStyle`.
      domain: its growth has the problems of a minibatch, the sampling of edits and the seed, and its rounds and edits
        are those of the tree whose answers GEPA may use (`budget`).
      student: answers.
      environments: the environments, with different ids.
      phase: wraps the runs, for a progress display.
    """
    total = sum(budget(domain, environment) for environment in environments)
    with phase("answers of GEPA", total) as advance:
        server = _Server(editor, domain, student, environments, advance)
        return run_together([functools.partial(_evolve, domain, each) for each in environments], server.answer)


def budget(domain: Instructions, environment: Environment) -> int:
    """Returns how many answers a tree of valid edits takes: of each node, to the holdout and to a batch."""
    growth = domain.growth
    return (1 + growth.rounds * growth.edits) * (len(environment.holdout) + growth.batch)


@dataclasses.dataclass(frozen=True)
class _Server:
    """Answers what the runs ask for, step by step."""

    editor: Writer
    domain: Instructions
    student: Writer
    environments: Sequence[Environment]
    advance: Advance

    def answer(self, step: int, requests: Sequence[tuple[int, Any]]) -> list[Any]:
        replies = units.current().once(f"step {step}", functools.partial(self._replies, requests))
        return [self._read(*each, reply) for each, reply in zip(requests, replies, strict=True)]

    def _replies(self, requests: Sequence[tuple[int, Any]]) -> list[Any]:
        writes = [(self.environments[place], each) for place, each in requests if isinstance(each, _Write)]
        asked = [Asked(self.environments[place], *each) for place, each in requests if isinstance(each, _Evaluate)]
        growth, room = self.domain.growth, self.domain.room
        texts: list[list[str]] = []
        if writes:
            texts = continued(
                self.editor,
                [each.prompt for _, each in writes],
                max_new_tokens=room.edit_tokens,
                temperature=growth.temperature,
                top_p=growth.top_p,
                seed=growth.seed,
                num_samples=1,
                ids=[f"gepa {environment.id} {each.number}" for environment, each in writes],
            )
        lines = answered(self.student, asked, max_new_tokens=room.answer_tokens, stop=growth.stop)
        written, evaluated = iter(texts), iter(lines)
        return [
            next(written)[0] if isinstance(each, _Write) else summary_to_json(next(evaluated)) for _, each in requests
        ]

    def _read(self, place: int, request: Any, reply: Any) -> Any:
        if isinstance(request, _Write):
            return reply
        self.advance(len(request.problems))
        return summary_from_json(self.environments[place], reply)


class _Silent:
    """GEPA's logger, which would write to the terminal."""

    def log(self, message: str) -> None:
        """Drops a message."""


class _Run:
    """GEPA's adapter and its callbacks, for one environment (`gepa.GEPAAdapter`, `gepa.core.callbacks.GEPACallback`).

    Attributes:
      selected: the parent of each iteration, by its number.
      written: the text of each iteration that proposed one.
      accepted: the iteration of each accepted candidate, by its index.
      invalid: of iterations without an instruction that can be used, what was written and the reason.
      propose_new_texts: writes an instruction in the domain's own style; `None` for GEPA's prompt.
    """

    def __init__(self, domain: Instructions, environment: Environment, ask: Ask):
        self._style, self._room, self._environment, self._ask = domain.style, domain.room, environment, ask
        self._number = self._iteration = 0
        self.selected: dict[int, int] = {}
        self.written: dict[int, str] = {}
        self.accepted: dict[int, int] = {}
        self.invalid: dict[int, tuple[str, str]] = {}
        self.propose_new_texts: Callable[..., dict[str, str]] | None = (
            None if isinstance(domain.style, TaggedStyle) else self._propose
        )

    def evaluate(self, batch: Sequence[Problem], candidate: Mapping[str, str], capture_traces: bool = False) -> Any:
        """Returns the answers to problems; a candidate that makes prompts too long has no answers and no rewards."""
        del capture_traces
        every = (*self._environment.holdout, *self._environment.pool)
        try:
            self._room.check_answers(self._environment, candidate[COMPONENT], every)
        except InvalidEdit as error:
            self.invalid[self._iteration] = (candidate[COMPONENT], str(error))
            lines = [Evaluated(problem, "", Verdict(0.0, str(error))) for problem in batch]
        else:
            lines = self._ask(_Evaluate(candidate[COMPONENT], tuple(batch)))
        rewards = [line.verdict.reward for line in lines]
        return package().EvaluationBatch([line.answer for line in lines], rewards, trajectories=lines)

    def make_reflective_dataset(
        self, candidate: Mapping[str, str], eval_batch: Any, components_to_update: Sequence[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """Returns what the editor sees of the answers: the lines of a summary, or texts for GEPA's prompt."""
        del candidate, components_to_update
        lines = eval_batch.trajectories
        if self.propose_new_texts is not None:
            return {COMPONENT: [{"line": line} for line in lines]}
        return {COMPONENT: [_shown(line) for line in lines]}

    def _propose(
        self,
        candidate: Mapping[str, str],
        dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components: Sequence[str],
    ) -> dict[str, str]:
        del components
        summary = [each["line"] for each in dataset[COMPONENT]]
        text = self._write(self._style.edit_prompt(self._environment, candidate[COMPONENT], summary))
        try:
            return {COMPONENT: self._style.parse_edit(text)}
        except InvalidEdit as error:
            self.invalid[self._iteration] = (text, str(error))
            return {}  # no proposal

    def reflect(self, prompt: str) -> str:
        """Returns what the editor writes after GEPA's prompt (`gepa.optimize`'s `reflection_lm`)."""
        tokenizer = self._style.tokenizer if isinstance(self._style, TaggedStyle) else None
        return self._write(prompt if tokenizer is None else chat_text(tokenizer, [{"role": "user", "content": prompt}]))

    def _write(self, prompt: str) -> str:
        """Returns the editor's text.

        Raises:
          InvalidEdit: the prompt is too long for it; GEPA then proposes nothing.
        """
        try:
            self._room.check_edit(prompt)
        except InvalidEdit as error:
            self.invalid[self._iteration] = ("", str(error))
            raise
        self._number += 1
        return self._ask(_Write(prompt, self._number))

    def on_iteration_start(self, event: Mapping[str, Any]) -> None:
        """Notes the iteration."""
        self._iteration = event["iteration"]

    def on_candidate_selected(self, event: Mapping[str, Any]) -> None:
        """Notes the parent."""
        self.selected[event["iteration"]] = event["candidate_idx"]

    def on_proposal_end(self, event: Mapping[str, Any]) -> None:
        """Notes the proposal."""
        self.written[event["iteration"]] = event["new_instructions"][COMPONENT]

    def on_candidate_accepted(self, event: Mapping[str, Any]) -> None:
        """Notes the candidate."""
        self.accepted[event["new_candidate_idx"]] = event["iteration"]


def _shown(line: Evaluated) -> dict[str, str]:
    feedback = "This is correct."
    if line.verdict.reward < 1:
        feedback = f"This is wrong. The right answer is:\n{line.problem.truth}"
        feedback += f"\n{line.verdict.error}" if line.verdict.error else ""
    return {"Inputs": line.problem.question, "Generated Outputs": line.answer.strip(), "Feedback": feedback}


def _evolve(domain: Instructions, environment: Environment, ask: Ask) -> Tree:
    """Runs GEPA on one environment."""
    run = _Run(domain, environment, ask)
    batch, most = domain.growth.batch, budget(domain, environment)
    holdout = list(environment.holdout)

    def stop(state: Any) -> bool:
        """Whether another iteration could exceed the budget: parent and child on a minibatch, the child on all."""
        return state.total_num_evals + 2 * batch + len(holdout) > most

    found = package().optimize(
        seed_candidate={COMPONENT: environment.seed_instruction},
        trainset=list(environment.pool),
        valset=holdout,
        adapter=run,
        reflection_lm=None if run.propose_new_texts else run.reflect,
        candidate_selection_strategy="pareto",
        frontier_type="instance",
        reflection_minibatch_size=batch,
        stop_callbacks=stop,
        logger=_Silent(),
        callbacks=[run],
        seed=random.Random(f"gepa {domain.growth.seed} {environment.id}").getrandbits(32),
    )
    return _tree(found, run)


def _tree(found: Any, run: _Run) -> Tree:
    """Returns GEPA's candidates as a tree; a round is an iteration."""
    tree = Tree(found.candidates[0][COMPONENT])
    tree.extra |= {"method": "gepa", ANSWERS: found.total_metric_calls}
    for index, (candidate, scores) in enumerate(zip(found.candidates, found.val_subscores, strict=True)):
        rewards = [scores[place] for place in sorted(scores)]
        if index == 0:
            node = tree.root
            node.extra[SCORES] = rewards
        else:
            text, parent = candidate[COMPONENT], tree.nodes[found.parents[index][0]]
            about = {"round_idx": run.accepted[index], "conversation": text}
            node = tree.add_child(parent, text, **about, extra={SCORES: rewards})
        tree.set_performance(node, sum(rewards) / len(rewards))
    for parent_index in run.selected.values():
        tree.nodes[parent_index].visits += 1
    tree.total_selections = len(run.selected)
    dropped = {number: (REJECTED, text, WORSE) for number, text in run.written.items()}
    dropped |= {number: (INVALID, text, reason) for number, (text, reason) in run.invalid.items()}
    for number, (kind, text, reason) in sorted(dropped.items()):
        if number not in run.accepted.values():
            record = {"round_idx": number, "text": text, "reason": reason}
            tree.nodes[run.selected[number]].extra.setdefault(kind, []).append(record)
    return tree
