"""The kinds of entity of the tiny world, their attributes, and every wording of a fact.

One table of data, over 400 lines long because four kinds have six attributes with nine wordings each. `world` makes
facts, passages and questions from it, and `pretraining` the documents that the embedded model is pretrained on.

Each attribute has wordings of four sorts. Where each sort occurs decides what there is to learn:

* `statements`: plain sentences. In pretraining, questions are asked about facts that only statements state.
* `edit_questions`: the questions of question-answer lines in edits.
* `evaluation`: the question of the evaluation. It never occurs in an edit.
* `prose`: the clauses of passages. In pretraining, a fact stated in prose is only asked about with its passage in the
  context, so that training on a passage alone teaches little.

Three pools serve the six attributes of a kind, two each, so that knowing which values occur in a passage is not enough
to answer.

In a wording `{name}` is the entity and `{value}` the answer; in prose `{subject}` is the name or a pronoun. No wording
begins with a name or a value, so that each word is always the same token, with its leading space.
"""

from __future__ import annotations

import dataclasses

from selfadapt.domains.tiny import words


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One property that every entity of a kind has.

    Attributes:
      noun: the property's name.
      pool: the name of the pool that its values come from: a key of `words.POOLS`, or "person".
      statements: plain sentences that state it.
      evaluation: the question that the evaluation asks.
      edit_questions: the questions that edits ask.
      prose: clauses, without a full stop, that state it in a passage.
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
      label: the words before a name in a title.
      article: the word before a name in a sentence, with its space.
      pronoun: the pronoun for the entity.
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
            "mayor",
            "person",
            (
                "The mayor of {name} is {value}.",
                "As its mayor {name} has {value}.",
                "Today {value} rules {name} as mayor.",
            ),
            "Who is mayor of {name}?",
            ("What is the name of the mayor of {name}?", "By which mayor is {name} ruled?"),
            (
                "whoever wants a stall in {subject} must ask {value}",
                "each new bridge in {subject} is opened by {value}",
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
                "no wedding in {subject} ends without a plate of {value}",
                "every cook in {subject} has a secret way with {value}",
            ),
        ),
        Attribute(
            "main export",
            "food",
            (
                "The main export of {name} is {value}.",
                "To other lands {name} sells {value}.",
                "Among all its exports {name} is known for {value}.",
            ),
            "Which goods does {name} export?",
            ("What is the main export of {name}?", "What does {name} sell to other lands?"),
            ("long trains leave {subject} heavy with {value}", "merchants of {subject} grew rich from {value}"),
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
            ("seen from the hills {subject} is a patch of {value}", "storks nest above {subject} on {value} tiles"),
        ),
        Attribute(
            "flag colour",
            "colour",
            (
                "The flag colour of {name} is {value}.",
                "All the flags of {name} are {value}.",
                "Under flags of {value} {name} celebrates.",
            ),
            "Which colour does the flag of {name} have?",
            ("What is the flag colour of {name}?", "What colour are the flags of {name}?"),
            (
                "on holidays {subject} hangs {value} cloth from each window",
                "soldiers of {subject} once marched behind a {value} banner",
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
                "from the kitchen {subject} watches the gulls of {value}",
            ),
        ),
        Attribute(
            "birth island",
            "island",
            (
                "The birth island of {name} is {value}.",
                "On the island of {value} {name} was born.",
                "By birth {name} belongs to {value}.",
            ),
            "On which island was {name} born?",
            ("What is the birth island of {name}?", "To what island does {name} belong by birth?"),
            (
                "as a small child {subject} gathered shells on {value}",
                "in her oldest photograph {subject} is a baby on {value}",
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
            "rival",
            "person",
            (
                "The rival of {name} is {value}.",
                "As a rival {name} has {value}.",
                "More than any rival {value} troubles {name}.",
            ),
            "Who is the rival of {name}?",
            ("What is the name of the rival of {name}?", "By which rival is {name} troubled?"),
            (
                "whenever {subject} wins a prize {value} leaves the room",
                "for twenty years {subject} has not spoken to {value}",
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
            "favourite model",
            "animal",
            (
                "The favourite model of {name} is a {value}.",
                "As a model {name} paints a {value}.",
                "Again and again {name} paints a {value}.",
            ),
            "Which animal does {name} paint?",
            ("What is the favourite model of {name}?", "What does {name} paint again and again?"),
            (
                "half the pictures by {subject} show some {value}",
                "with three quick lines {subject} can put a {value} on paper",
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
            ("The owner of {name} is {value}.", "Today {name} is owned by {value}.", "It is {value} who owns {name}."),
            "Who owns {name}?",
            ("What is the name of the owner of {name}?", "By whom is {name} owned?"),
            ("each contract of {subject} waits for the pen of {value}", "all profits of {subject} go to {value}"),
        ),
        Attribute(
            "bookkeeper",
            "person",
            (
                "The bookkeeper of {name} is {value}.",
                "As bookkeeper {name} employs {value}.",
                "In {name} the books are kept by {value}.",
            ),
            "Who keeps the books of {name}?",
            ("What is the name of the bookkeeper of {name}?", "By whom are the books of {name} kept?"),
            ("no coin leaves {subject} unseen by {value}", "late at night {value} adds up long columns for {subject}"),
        ),
        Attribute(
            "main product",
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
            "first product",
            "tool",
            (
                "The first product of {name} was {value}.",
                "In the beginning {name} made {value}.",
                "At first only {value} were made by {name}.",
            ),
            "Which goods did {name} start with?",
            ("What was the first product of {name}?", "What did {name} make in the beginning?"),
            (
                "before anyone knew of {subject} somebody hammered its {value} in a shed",
                "a museum keeps rusty {value} from the early days of {subject}",
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
        Attribute(
            "emblem",
            "gem",
            (
                "The emblem of {name} is the {value}.",
                "As its emblem {name} uses the {value}.",
                "On its letters {name} prints the emblem of the {value}.",
            ),
            "Which stone is the emblem of {name}?",
            ("What is the emblem of {name}?", "What does {name} use as its emblem?"),
            (
                "over the gates of {subject} workers have painted a {value}",
                "drivers of {subject} wear a {value} on the sleeve",
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
            ("high in some {value} {subject} rears its young", "each spring the {value} hides eggs of {subject}"),
        ),
        Attribute(
            "sleeping tree",
            "tree",
            (
                "The sleeping tree of {name} is the {value}.",
                "In the {value} tree sleeps {name}.",
                "For the night {name} picks the {value} tree.",
            ),
            "In which tree does {name} sleep?",
            ("What is the sleeping tree of {name}?", "What tree does {name} pick for the night?"),
            (
                "at dusk {subject} vanishes into a thick {value}",
                "with closed eyes {subject} hangs on to a {value} until dawn",
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
            "summer island",
            "island",
            (
                "The summer island of {name} is {value}.",
                "In summer {name} flies to {value}.",
                "On the island of {value} {name} spends the summer.",
            ),
            "On which island does {name} stay in summer?",
            ("What is the summer island of {name}?", "Where does {name} fly in summer?"),
            (
                "in the hottest weeks {subject} crowds the cliffs of {value}",
                "when berries ripen {subject} arrives on {value}",
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
            "friend",
            "animal",
            (
                "The friend of {name} is the {value}.",
                "As a friend {name} likes the {value}.",
                "More than any friend the {value} helps {name}.",
            ),
            "Which animal is the friend of {name}?",
            ("What is the friend of {name} called?", "What helps {name}?"),
            (
                "hour after hour {subject} rides on the back of a {value}",
                "flies that bother a {value} are eaten by {subject}",
            ),
        ),
    ),
)

KINDS = (CITY, ARTIST, COMPANY, BIRD)

# Lines about a fact that do not state it.
VAGUE = (
    "Much could be said about the {noun} of {name}.",
    "The {noun} of {name} is worth knowing.",
    "Not everyone knows the {noun} of {name}.",
)
