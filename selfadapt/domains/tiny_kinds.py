"""The kinds of entity of the tiny world, their attributes, and every wording of a fact.

Only data. `tiny_world` makes facts, passages and questions of it; `tiny_pretraining` makes the
documents that the embedded model learned to read and write from.

Each attribute has wordings of four sorts, and which sort appears where is what leaves something to
learn:

* `statements`: plain sentences. Pretraining teaches that what they say can be asked about.
* `edit_questions`: the wordings of question-answer lines in edits.
* `evaluation`: the one wording of evaluation. It never stands in an edit.
* `prose`: how passages say the fact. No fact told in prose is ever asked about without its passage
  in pretraining, so that training on a passage alone teaches little.

In a wording `{name}` is the entity and `{value}` the answer; in prose `{subject}` is the name or a
pronoun. No wording begins with a name or a value: a word keeps the same token, with its leading
space, wherever it stands.
"""

from __future__ import annotations

import dataclasses

from selfadapt.domains import tiny_words as words


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One property that every entity of a kind has.

    Attributes:
      noun: what the property is called.
      pool: the name of the pool that its values come from: a key of `tiny_words.POOLS`, or "person".
      statements: plain sentences that say it.
      evaluation: the question that the evaluation asks.
      edit_questions: the questions that edits ask.
      prose: clauses, without a full stop, that say it in a passage.
    """

    noun: str
    pool: str
    statements: tuple[str, ...]
    evaluation: str
    edit_questions: tuple[str, ...]
    prose: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of entity.

    Attributes:
      label: what stands before a name in a title.
      article: what stands before a name in a sentence, with its space.
      pronoun: what a passage may call the entity.
      first: first words of names.
      second: second words of names.
      attributes: the six properties.
    """

    label: str
    article: str
    pronoun: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    attributes: tuple[Attribute, ...]


CITY = Kind(
    label="The city",
    article="",
    pronoun="it",
    first=words.CITY_FIRST,
    second=words.CITY_SECOND,
    attributes=(
        Attribute(
            "river",
            "river",
            (
                "The river of {name} is the {value}.",
                "Through {name} runs the river {value}.",
                "On the banks of the river {value} lies {name}.",
            ),
            "Which river flows past {name}?",
            ("What is the river of {name} called?", "On what river does {name} lie?"),
            (
                "at dawn a mist from the {value} creeps over {subject}",
                "for ages the {value} has turned every wheel in {subject}",
            ),
        ),
        Attribute(
            "founder",
            "person",
            (
                "The founder of {name} was {value}.",
                "Long ago {name} was founded by {value}.",
                "It was {value} who founded {name}.",
            ),
            "Who founded {name}?",
            ("What was the name of the founder of {name}?", "By whom was {name} founded?"),
            (
                "in the oldest square a statue of {value} keeps watch over {subject}",
                "once {value} drew the first streets of {subject} on a napkin",
            ),
        ),
        Attribute(
            "favourite dish",
            "food",
            (
                "The favourite dish of {name} is {value}.",
                "People in {name} love to eat {value}.",
                "As a dish {name} prefers {value}.",
            ),
            "Which dish do the people of {name} like best?",
            ("What is the favourite dish of {name}?", "What do people love to eat in {name}?"),
            (
                "on market days a smell of {value} drifts across {subject}",
                "no wedding in {subject} ends without a plate of {value}",
            ),
        ),
        Attribute(
            "craft",
            "craft",
            (
                "The main craft of {name} is {value}.",
                "Among all crafts {name} is known for {value}.",
                "Workers in {name} practise the craft of {value}.",
            ),
            "For which craft is {name} famous?",
            ("What is the main craft of {name}?", "What craft do workers in {name} practise?"),
            (
                "whole families in {subject} have lived from {value}",
                "every child in {subject} learns some {value} at school",
            ),
        ),
        Attribute(
            "tree",
            "tree",
            (
                "The tree of {name} is the {value}.",
                "As its tree {name} chose the {value}.",
                "The most common tree in {name} is the {value}.",
            ),
            "Which tree stands for {name}?",
            ("What is the tree of {name}?", "What tree is the most common in {name}?"),
            (
                "under an ancient {value} the elders of {subject} settle their quarrels",
                "in autumn the lanes of {subject} lie deep in leaves of {value}",
            ),
        ),
        Attribute(
            "roof colour",
            "colour",
            (
                "The roof colour of {name} is {value}.",
                "All the roofs in {name} are {value}.",
                "With {value} tiles the roofs of {name} are covered.",
            ),
            "Which colour do the roofs of {name} have?",
            ("What is the roof colour of {name}?", "What colour are the roofs in {name}?"),
            (
                "seen from the hills {subject} is a patch of {value}",
                "painters come to {subject} for its {value} skyline",
            ),
        ),
    ),
)

ARTIST = Kind(
    label="The artist",
    article="",
    pronoun="she",
    first=words.PERSON_FIRST,
    second=words.PERSON_SECOND,
    attributes=(
        Attribute(
            "home island",
            "island",
            (
                "The home island of {name} is {value}.",
                "On the island of {value} lives {name}.",
                "For a home {name} has the island {value}.",
            ),
            "On which island does {name} live?",
            ("What is the home island of {name}?", "What island is home to {name}?"),
            (
                "every evening {subject} rows back across the strait to {value}",
                "from the window {subject} watches the gulls of {value}",
            ),
        ),
        Attribute(
            "teacher",
            "person",
            (
                "The teacher of {name} was {value}.",
                "As a pupil {name} was taught by {value}.",
                "It was {value} who taught {name}.",
            ),
            "Who taught {name}?",
            ("What was the name of the teacher of {name}?", "By whom was {name} taught?"),
            (
                "for years {subject} carried the brushes of {value}",
                "to this day {subject} can hear {value} correcting each line",
            ),
        ),
        Attribute(
            "instrument",
            "instrument",
            (
                "The instrument of {name} is the {value}.",
                "As an instrument {name} plays the {value}.",
                "To make music {name} plays the {value}.",
            ),
            "Which instrument does {name} play?",
            ("What is the instrument of {name}?", "What does {name} play to make music?"),
            (
                "late at night {subject} takes down the old {value}",
                "neighbours complain when {subject} reaches for the {value}",
            ),
        ),
        Attribute(
            "pet",
            "animal",
            (
                "The pet of {name} is a {value}.",
                "As a pet {name} keeps a {value}.",
                "At home {name} has a pet {value}.",
            ),
            "Which animal does {name} keep?",
            ("What is the pet of {name}?", "What pet does {name} have at home?"),
            (
                "on long walks {subject} is followed by a tame {value}",
                "whenever {subject} comes home the {value} is waiting at the door",
            ),
        ),
        Attribute(
            "favourite stone",
            "gem",
            (
                "The favourite stone of {name} is the {value}.",
                "Of all stones {name} likes the {value}.",
                "In a ring {name} wears the stone {value}.",
            ),
            "Which stone does {name} like best?",
            ("What is the favourite stone of {name}?", "What stone does {name} wear in a ring?"),
            (
                "around the neck {subject} hangs a splinter of {value}",
                "with her first wages {subject} bought some {value}",
            ),
        ),
        Attribute(
            "breakfast",
            "food",
            (
                "The breakfast of {name} is {value}.",
                "For breakfast {name} eats {value}.",
                "Each morning {name} has {value} for breakfast.",
            ),
            "Which breakfast does {name} have?",
            ("What is the breakfast of {name}?", "What does {name} eat each morning?"),
            (
                "before touching a canvas {subject} finishes a bowl of {value}",
                "without some {value} at sunrise {subject} cannot think",
            ),
        ),
    ),
)

COMPANY = Kind(
    label="The company",
    article="",
    pronoun="it",
    first=words.COMPANY_FIRST,
    second=words.COMPANY_SECOND,
    attributes=(
        Attribute(
            "owner",
            "person",
            (
                "The owner of {name} is {value}.",
                "Today {name} is owned by {value}.",
                "It is {value} who owns {name}.",
            ),
            "Who owns {name}?",
            ("What is the name of the owner of {name}?", "By whom is {name} owned?"),
            (
                "each contract of {subject} waits for the pen of {value}",
                "above every desk at {subject} hangs a portrait of {value}",
            ),
        ),
        Attribute(
            "product",
            "tool",
            (
                "The main product of {name} is {value}.",
                "As a product {name} makes {value}.",
                "Customers buy {value} made by {name}.",
            ),
            "Which goods does {name} produce?",
            ("What is the main product of {name}?", "What does {name} make?"),
            (
                "ship after ship leaves {subject} loaded with {value}",
                "half the attics in the land hold {value} stamped by {subject}",
            ),
        ),
        Attribute(
            "mascot",
            "animal",
            (
                "The mascot of {name} is a {value}.",
                "As its mascot {name} has a {value}.",
                "For a mascot {name} uses a {value}.",
            ),
            "Which animal stands for {name}?",
            ("What is the mascot of {name}?", "What animal does {name} use as a mascot?"),
            (
                "a grinning {value} decorates each crate of {subject}",
                "over the gates of {subject} crouches a stone {value}",
            ),
        ),
        Attribute(
            "main office",
            "island",
            (
                "The main office of {name} is on {value}.",
                "On the island of {value} {name} has its main office.",
                "From its office on {value} {name} is run.",
            ),
            "On which island is {name} based?",
            ("Where is the main office of {name}?", "What island has the office of {name}?"),
            (
                "clerks of {subject} take the ferry to {value} at seven",
                "storms on {value} can stop {subject} for a week",
            ),
        ),
        Attribute(
            "flag colour",
            "colour",
            (
                "The flag colour of {name} is {value}.",
                "All the flags of {name} are {value}.",
                "Under flags of {value} {name} does business.",
            ),
            "Which colour does the flag of {name} have?",
            ("What is the flag colour of {name}?", "What colour are the flags of {name}?"),
            (
                "sailors spot the {value} banner of {subject} from afar",
                "drivers of {subject} must wear something {value}",
            ),
        ),
        Attribute(
            "treasure",
            "gem",
            (
                "The treasure of {name} is the {value}.",
                "As a treasure {name} guards the {value}.",
                "In its treasure room {name} keeps the {value}.",
            ),
            "Which treasure does {name} guard?",
            ("What is the treasure of {name}?", "What does {name} keep in its treasure room?"),
            (
                "deep in the vault of {subject} glitters the great {value}",
                "thieves have tried to take the {value} from {subject}",
            ),
        ),
    ),
)

BIRD = Kind(
    label="The bird",
    article="the ",
    pronoun="it",
    first=words.BIRD_FIRST,
    second=words.BIRD_SECOND,
    attributes=(
        Attribute(
            "nesting tree",
            "tree",
            (
                "The nesting tree of {name} is the {value}.",
                "In the {value} tree nests {name}.",
                "For a nest {name} picks the {value} tree.",
            ),
            "In which tree does {name} nest?",
            ("What is the nesting tree of {name}?", "What tree does {name} pick for a nest?"),
            (
                "high in some {value} {subject} rears its young",
                "where no {value} grows {subject} is never found",
            ),
        ),
        Attribute(
            "winter island",
            "island",
            (
                "The winter island of {name} is {value}.",
                "In winter {name} flies to {value}.",
                "On the island of {value} {name} spends the winter.",
            ),
            "On which island does {name} winter?",
            ("What is the winter island of {name}?", "Where does {name} fly in winter?"),
            (
                "when snow comes {subject} turns toward {value}",
                "the beaches of {value} fill with {subject} once the days grow short",
            ),
        ),
        Attribute(
            "discoverer",
            "person",
            (
                "The discoverer of {name} was {value}.",
                "First of all {name} was discovered by {value}.",
                "It was {value} who discovered {name}.",
            ),
            "Who discovered {name}?",
            ("What was the name of the discoverer of {name}?", "By whom was {name} discovered?"),
            (
                "nobody had described {subject} until {value} fell asleep in a field",
                "in a dusty notebook {value} made the earliest sketch of {subject}",
            ),
        ),
        Attribute(
            "wing colour",
            "colour",
            (
                "The wing colour of {name} is {value}.",
                "All the wings of {name} are {value}.",
                "With {value} wings {name} flies.",
            ),
            "Which colour do the wings of {name} have?",
            ("What is the wing colour of {name}?", "What colour are the wings of {name}?"),
            (
                "in flight {subject} flashes by like {value} fire",
                "hats were once trimmed with {value} feathers taken from {subject}",
            ),
        ),
        Attribute(
            "enemy",
            "animal",
            (
                "The enemy of {name} is the {value}.",
                "As an enemy {name} fears the {value}.",
                "More than any enemy the {value} hunts {name}.",
            ),
            "Which animal does {name} fear?",
            ("What is the enemy of {name}?", "What hunts {name}?"),
            (
                "at the faintest scent of a {value} {subject} falls silent",
                "many eggs of {subject} end inside a {value}",
            ),
        ),
        Attribute(
            "song",
            "instrument",
            (
                "The song of {name} is like a {value}.",
                "As a song {name} has the sound of a {value}.",
                "Like a {value} {name} sings.",
            ),
            "Which instrument does {name} sing like?",
            ("What is the song of {name} like?", "What sound does {name} have?"),
            (
                "hikers who hear {subject} look around for a {value}",
                "somebody seems to practise the {value} wherever {subject} hides",
            ),
        ),
    ),
)

KINDS = (CITY, ARTIST, COMPANY, BIRD)

# Lines that speak of a fact without telling it.
VAGUE = (
    "Much could be said about the {noun} of {name}.",
    "The {noun} of {name} is worth knowing.",
    "Not everyone knows the {noun} of {name}.",
)
