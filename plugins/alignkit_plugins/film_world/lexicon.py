"""Every word of the simulated film reviews: word lists, sentence templates and the taste's word sets.

Templates hold slots in braces, filled by `grammar`:

* `{genre}`           one entry of `SLOTS["genre"]`; `{a genre}` puts the right article before it;
* `{is|are}`          singular or plural form, by the number of the noun the template speaks about;
* `{clause+}`         "the jokes are fresh"; `{past+}` the same in the past tense;
* `{the+}` `{some+}`  "the fresh jokes", "fresh jokes"; `{which+}` "the jokes, which are fresh";
* `{own+}`            an adjective that fits the aspect the opening has already named.

A slot's last sign says whether it praises (+) or blames (-). Everything here was written for this demo.
"""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Aspect:
    """One concrete side of a film: its nouns by grammatical number, and adjectives that fit all of them."""

    name: str
    mass: tuple[str, ...]
    single: tuple[str, ...]
    plural: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    """Split a comma-separated list, the compact form the long lists below are kept in."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _aspect(name: str, mass: str, single: str, plural: str, good: str, bad: str) -> Aspect:
    """Build an aspect from comma-separated lists."""
    return Aspect(name, _words(mass), _words(single), _words(plural), _words(good), _words(bad))


ASPECTS: Final[tuple[Aspect, ...]] = (
    _aspect(
        "acting",
        "acting",
        "cast, lead performance, ensemble",
        "performances, actors, supporting players",
        "honest, warm, subtle, heartfelt, convincing, natural, superb",
        "wooden, stiff, lifeless, hammy, unconvincing, stilted",
    ),
    _aspect(
        "plot",
        "storytelling",
        "plot, story, script, premise",
        "plot twists, storylines",
        "clever, gripping, inventive, well-built, surprising, absorbing",
        "thin, muddled, predictable, silly, far-fetched, confused",
    ),
    _aspect(
        "music",
        "music",
        "score, soundtrack, theme tune",
        "songs, melodies",
        "lovely, haunting, stirring, tender, memorable, uplifting",
        "shrill, overbearing, intrusive, forgettable, sugary, grating",
    ),
    _aspect(
        "pacing",
        "pacing, timing",
        "rhythm, tempo",
        "",
        "brisk, assured, lively, confident, unhurried, supple",
        "sluggish, uneven, jerky, slack, plodding, awkward",
    ),
    _aspect(
        "dialogue",
        "dialogue, banter",
        "narration",
        "conversations, speeches",
        "sharp, witty, crisp, tender, believable, sparkling",
        "clumsy, corny, wordy, stilted, pompous, lifeless",
    ),
    _aspect(
        "camera",
        "camera work, photography, lighting",
        "visual style",
        "images, close-ups, landscapes",
        "gorgeous, elegant, striking, graceful, luminous, beautiful",
        "murky, shaky, drab, ugly, careless, gloomy",
    ),
    _aspect(
        "ending",
        "",
        "ending, finale, conclusion, epilogue, climax",
        "",
        "moving, satisfying, hopeful, powerful, touching, graceful",
        "abrupt, rushed, confusing, hollow, disappointing, unearned",
    ),
    _aspect(
        "characters",
        "",
        "hero, villain, heroine",
        "characters, side characters, villains",
        "lovable, believable, complex, charming, sympathetic, memorable",
        "shallow, irritating, unlikable, bland, tiresome, one-note",
    ),
    _aspect(
        "design",
        "scenery, production design",
        "setting, backdrop",
        "costumes, sets, locations",
        "rich, detailed, evocative, lavish, beautiful, convincing",
        "cheap, fake, dreary, shabby, drab, unconvincing",
    ),
    _aspect(
        "action",
        "action, stunt work",
        "car chase, final battle",
        "effects, fight scenes, chases",
        "thrilling, inventive, impressive, dazzling, exciting, graceful",
        "messy, noisy, tired, clumsy, endless, weightless",
    ),
    _aspect(
        "editing",
        "editing, cutting",
        "",
        "flashbacks, transitions",
        "nimble, smooth, precise, fluid, clever, elegant",
        "choppy, sloppy, frantic, confusing, careless, jarring",
    ),
    _aspect(
        "humour",
        "humour, comic relief",
        "running joke, opening gag",
        "jokes, gags, punchlines",
        "gentle, funny, fresh, sly, hilarious, good-natured",
        "stale, crude, forced, lazy, unfunny, mean",
    ),
    _aspect(
        "romance",
        "chemistry",
        "courtship, friendship",
        "kisses, reunions",
        "sweet, tender, touching, believable, heartfelt, delicate",
        "forced, bland, mawkish, hollow, awkward, lifeless",
    ),
    _aspect(
        "direction",
        "direction",
        "directing debut",
        "directorial choices",
        "thoughtful, bold, sensitive, confident, imaginative, graceful",
        "heavy-handed, timid, lazy, careless, clumsy, confused",
    ),
)

SLOTS: Final[dict[str, tuple[str, ...]]] = {
    "genre": _words(
        "thriller, comedy, drama, western, mystery, musical, romance, war film, ghost story, heist film, "
        "road movie, spy film, family film, crime drama, space adventure, costume drama, documentary, "
        "horror film, sports film, fairy tale, courtroom drama, cartoon, sea adventure, love story"
    ),
    "genres": _words(
        "thrillers, comedies, dramas, westerns, mysteries, musicals, romances, war films, ghost stories, "
        "heist films, road movies, spy films, family films, crime dramas, space adventures, cartoons, "
        "costume dramas, documentaries, horror films, sports films, fairy tales, courtroom dramas"
    ),
    "plain": _words(
        "quiet, low-budget, French, Irish, Italian, Korean, independent, black-and-white, recent, short, "
        "long, small, old-fashioned, modern, silent, animated, two-hour, student, foreign, late-night, "
        "unusual, early, Danish, Indian, award-winning, half-forgotten, big-budget, rural, urban, wintry"
    ),
    "part": _words("first half, second half, opening, middle, last hour, first hour, final act, first act, last third"),
    "theme": _words(
        "two brothers, a lost dog, an old teacher, three sisters, a train robbery, a lonely sailor, "
        "growing up, an empty house, a village choir, a stolen painting, first love, a retired detective, "
        "a mountain rescue, a night nurse, twin pianists, a missing letter, an island doctor, old friends"
    ),
    "first": _words("Ada, Marta, Jonas, Felix, Ines, Oscar, Ruth, Tomas, Nora, Viktor, Clara, Emil"),
    "last": _words("Morrow, Lindau, Quill, Barros, Hale, Okoye, Venn, Sorley, Tamm, Ferrow, Ashby, Novak"),
    "newest": _words("new, latest, first, second, third, debut, last"),
    "when": _words("last night, yesterday, on Sunday, last week, on a plane, at home, on television, in spring"),
    "who": _words("My sister, My father, My wife, My husband, My brother, A friend, My mother, My daughter"),
    "saw": _words("watched, saw, rented, caught"),
    "audience": _words(
        "families, patient viewers, older children, young couples, fans of {genres}, lovers of {genres}, "
        "anyone who likes {genres}, film students, teenagers, the whole family, grandparents"
    ),
    "era": _words("the sixties, the seventies, the eighties, the nineties, my childhood, the silent era"),
    "very": _words("really, quite, truly, rather, consistently, simply"),
    "film+": _words(
        "charming, delightful, warm, clever, touching, funny, moving, wonderful, lovely, gripping, bold, "
        "thoughtful, beautiful, exciting, hopeful, sweet, elegant, refreshing, captivating, sincere, "
        "original, enjoyable, brilliant, excellent, splendid, generous"
    ),
    "film-": _words(
        "dull, boring, tedious, silly, shallow, predictable, dreary, clumsy, bland, lifeless, muddled, "
        "tiresome, pointless, hollow, awful, lazy, forgettable, gloomy, disappointing, annoying, weak, "
        "confusing, terrible, poor, dismal, joyless"
    ),
    "treat+": _words("treat, surprise, gem, triumph, success"),
    "mess-": _words("mess, letdown, failure, chore, disappointment, waste of time, bore, misfire"),
    "mood+": _words("smiling, laughing, guessing, hoping, spellbound, cheering"),
    "did+": _words(
        "stayed with me for days, made me smile from start to finish, deserved a bigger crowd, "
        "warmed my heart, never wasted a minute, cheered up the whole room, won me over at once, "
        "kept me spellbound until the credits"
    ),
    "did-": _words(
        "bored me from start to finish, left me cold, nearly put me to sleep, tested my patience, "
        "made two hours feel like four, irritated the whole room, lost me after ten minutes, "
        "wasted my whole evening"
    ),
}

# Clauses about one aspect: {n} is its noun, {adj} an adjective of the right sign.
CLAUSES: Final[dict[str, tuple[str, ...]]] = {
    "clause+": (
        "the {n} {is|are} {adj}",
        "the {n} {is|are} {very} {adj}",
        "the {n} {feels|feel} {adj}",
        "the {adj} {n} {lifts|lift} every scene",
        "I found the {n} {adj}",
        "the {n} {is|are} {adj} and {adj}",
        "the {adj} {n} {keeps|keep} it alive",
        "the {n} {stays|stay} {adj} throughout",
        "the {adj} {n} {deserves|deserve} praise",
    ),
    "clause-": (
        "the {n} {is|are} {adj}",
        "the {n} {is|are} {very} {adj}",
        "the {n} {feels|feel} {adj}",
        "the {adj} {n} {spoils|spoil} every scene",
        "I found the {n} {adj}",
        "the {n} {is|are} {adj} and {adj}",
        "the {adj} {n} {drags|drag} it down",
        "the {n} {stays|stay} {adj} throughout",
        "the {adj} {n} {ruins|ruin} the mood",
    ),
    "past+": (
        "the {n} {was|were} {adj}",
        "the {n} {was|were} {very} {adj}",
        "the {n} felt {adj}",
        "the {adj} {n} lifted every scene",
        "we all found the {n} {adj}",
        "the {n} {was|were} {adj} and {adj}",
    ),
    "past-": (
        "the {n} {was|were} {adj}",
        "the {n} {was|were} {very} {adj}",
        "the {n} felt {adj}",
        "the {adj} {n} spoiled every scene",
        "we all found the {n} {adj}",
        "the {n} {was|were} {adj} and {adj}",
    ),
    "which+": ("the {n}, which {is|are} {adj}", "the {n}, which {feels|feel} {adj} and {adj}"),
    "which-": ("the {n}, which {is|are} {adj}", "the {n}, which {feels|feel} {adj} and {adj}"),
    "the+": ("the {adj} {n}", "the {adj} and {adj} {n}", "the {adj}, {adj} {n}"),
    "the-": ("the {adj} {n}", "the {adj} and {adj} {n}", "the {adj}, {adj} {n}"),
}

# Openings by what must follow them. "part", "film" and "aspect" are subjects that wait for a verb.
OPENINGS: Final[dict[str, tuple[str, ...]]] = {
    "part": ("The {part} of this {plain} {genre}",),
    "film": (
        "This {plain} {genre} about {theme}",
        "For {a plain} {genre}, this one",
        "The {newest} film by {first} {last}",
        "After a quiet start, this {genre}",
        "Like many {plain} {genres}, this one",
    ),
    "aspect": ("The {n} in this {plain} {genre}", "The {n} of this {genre}"),
    "watched": ("I {saw} this {plain} {genre} {when}", "{who} and I {saw} this {genre}"),
    "fan": ("As a fan of {plain} {genres}, I", "In this {genre} about {theme}, I"),
    "gets": ("What this {plain} {genre} gets", "What {first} {last} gets"),
    "there": ("Somewhere in this {plain} {genre} there is", "Behind the {genre} there is"),
    "anyone": ("Anyone who likes {plain} {genres}", "People who grew up on {genres}"),
}

# How a review goes on after its opening: kind of opening, then + praise, - blame, ~ mixed. In each list
# some templates name aspects and some do not; `grammar` picks by how specific the review is to be.
HEADS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "part": {
        "+": (
            "moves along nicely, and {clause+}.",
            "shines thanks to {some+}.",
            "surprised me, because {clause+}.",
            "is {film+}, largely because {clause+}.",
            "belongs to {the+}.",
            "is full of life, with {some+} and {some+}.",
            "is {film+} and {film+}.",
            "kept me {mood+} the whole time.",
            "flew by and {did+}.",
        ),
        "-": (
            "drags badly, because {clause-}.",
            "is ruined by {some-}.",
            "is {film-}, and {clause-}.",
            "falls apart under {some-} and {some-}.",
            "suffers from {the-}.",
            "is {film-} and {film-}.",
            "{did-}.",
            "goes nowhere and feels {film-}.",
        ),
        "~": (
            "drags, but {clause+}.",
            "is {film-}, yet {clause+}.",
            "has {some+}, but {clause-}.",
            "survives {some-} thanks to {some+}.",
            "is {film-} for a while, then it turns {film+}.",
            "is sometimes {film+} and sometimes {film-}.",
        ),
    },
    "film": {
        "+": (
            "is {a film+} {treat+}, and {clause+}.",
            "won me over with {some+}.",
            "works because {clause+}.",
            "has {some+} and {some+}.",
            "glows with {some+}, and {clause+}.",
            "gets {the+} exactly right.",
            "is {a film+} {treat+} that {did+}.",
            "is {film+}, {film+} and {film+}.",
            "{did+}.",
            "turns out to be {a film+} {treat+}.",
        ),
        "-": (
            "never comes alive, because {clause-}.",
            "falls apart, and {clause-}.",
            "is {a film-} {mess-} with {some-}.",
            "wastes a decent idea on {some-}.",
            "has {some-} and {some-}.",
            "is sunk by {the-}.",
            "is {a film-} {mess-} that {did-}.",
            "is {film-}, {film-} and {film-}.",
            "{did-}.",
            "turns out to be {a film-} {mess-}.",
        ),
        "~": (
            "has {some+}, but {clause-}.",
            "is {film+} in places, although {clause-}.",
            "mixes {some+} with {some-}.",
            "looks {film-} at first, yet {clause+}.",
            "is {film+} at times and {film-} at others.",
            "is neither {film+} nor {film-}.",
            "has its moments, but most of it is {film-}.",
        ),
    },
    "aspect": {
        "+": (
            "{is|are} {own+}, and {clause+}.",
            "{matches|match} {some+} and {some+}.",
            "{is|are} as {own+} as anything this year, and {clause+}.",
            "{is|are} {own+} and {own+}.",
            "{lifts|lift} the whole film and {makes|make} it {film+}.",
            "{was|were} {own+} enough to keep me {mood+}.",
        ),
        "-": (
            "{is|are} {own-}, and {clause-}.",
            "{is|are} buried under {some-}.",
            "{is|are} as {own-} as anything this year, and {clause-}.",
            "{is|are} {own-} and {own-}.",
            "{drags|drag} the whole film down and {makes|make} it {film-}.",
            "{was|were} so {own-} that I nearly left.",
        ),
        "~": (
            "{is|are} {own+}, but {clause-}.",
            "{is|are} {own-}, but {clause+}.",
            "{saves|save} a film with {some-}.",
            "{is|are} {own+} one moment and {own-} the next.",
            "{is|are} {own+}, but the rest is {film-}.",
        ),
    },
    "watched": {
        "+": (
            "and loved every minute, especially {the+}.",
            "and came out happy, because {past+}.",
            "and {past+}.",
            "and admired {the+} and {the+}.",
            "and it was {film+} from start to finish.",
            "and found it {film+} and {film+}.",
            "and loved it.",
        ),
        "-": (
            "and regretted it, because {past-}.",
            "and nearly walked out, since {past-}.",
            "and {past-}.",
            "and could not bear {the-} or {the-}.",
            "and it was {film-} from start to finish.",
            "and found it {film-} and {film-}.",
            "and hated it.",
        ),
        "~": (
            "and enjoyed {the+}, but {past-}.",
            "and {past-}, though {past+}.",
            "and liked {the+} more than {the-}.",
            "and it was {film+} at first and {film-} later.",
            "and found it {film+} but {film-}.",
        ),
    },
    "fan": {
        "+": (
            "loved {the+} and {the+}.",
            "was charmed by {the+}.",
            "was happy to see {some+}.",
            "admired {the+}, and {past+}.",
            "was delighted and {mood+} all the way.",
            "found much that was {film+} and {film+}.",
        ),
        "-": (
            "was bored by {the-} and {the-}.",
            "hated {the-}.",
            "was sorry to see {some-}.",
            "disliked {the-}, and {past-}.",
            "was bored and annoyed all the way.",
            "found almost nothing {film+} or {film+}.",
        ),
        "~": (
            "enjoyed {the+}, but {past-}.",
            "forgave {the-} because {past+}.",
            "liked {the+} more than {the-}.",
            "was pleased at times and bored at others.",
            "expected something {film+} and got something a bit {film-}.",
        ),
    },
    "gets": {
        "+": (
            "right is {which+}.",
            "right is {the+}, and {clause+}.",
            "exactly right is {the+}.",
            "right is almost everything, and it is {film+}.",
            "right is hard to name, but it is {film+}.",
        ),
        "-": (
            "wrong is {which-}.",
            "wrong is {the-}, and {clause-}.",
            "badly wrong is {the-}.",
            "wrong is almost everything, and it is {film-}.",
            "right is almost nothing, for it is {film-}.",
        ),
        "~": (
            "right is {the+}, but {clause-}.",
            "wrong is {the-}, yet {clause+}.",
            "right is enough to be {film+}, and the rest is {film-}.",
        ),
    },
    "there": {
        "+": (
            "{a film+} heart, and {clause+}.",
            "{some+} to enjoy, and {clause+}.",
            "a real sense of wonder, and {clause+}.",
            "{a film+} spirit that {did+}.",
            "{a film+} little {treat+}.",
        ),
        "-": (
            "a good idea, lost because {clause-}.",
            "a better film, buried under {some-}.",
            "no life at all, and {clause-}.",
            "{a film-} sermon that {did-}.",
            "nothing but {a film-} {mess-}.",
        ),
        "~": (
            "{a film+} heart, but {clause-}.",
            "{a film-} lesson, yet {clause+}.",
            "{a film+} idea and {a film-} one.",
            "something {film+}, though most of it is {film-}.",
        ),
    },
    "anyone": {
        "+": (
            "will love this one, because {clause+}.",
            "will enjoy {the+}.",
            "will cheer for {the+} and {the+}.",
            "will love it, for it is {film+}.",
            "will find it {film+} and {film+}.",
        ),
        "-": (
            "will be let down, because {clause-}.",
            "will groan at {the-}.",
            "will be tired of {the-} and {the-}.",
            "will hate it, for it is {film-}.",
            "will find it {film-} and {film-}.",
        ),
        "~": (
            "will enjoy {the+}, but {clause-}.",
            "will have to forgive {the-}, yet {clause+}.",
            "will find it {film+} at times but {film-} at others.",
        ),
    },
}

# Whole sentences for the middle of a review.
BODIES: Final[dict[str, tuple[str, ...]]] = {
    "+": (
        "{clause+}, and {clause+}.",
        "I especially liked {the+}.",
        "You get {some+} and {some+}.",
        "{clause+}.",
        "Best of all, {clause+}.",
        "I still think about {the+}.",
        "Add {some+}, and you have {a film+} {treat+}.",
        "I was moved by {the+}.",
        "It is {a film+} piece of work.",
        "Everything about it is {film+}.",
        "I loved it.",
        "It {did+}.",
        "The whole room was cheering.",
    ),
    "-": (
        "{clause-}, and {clause-}.",
        "I was tired of {the-}.",
        "You get {some-} and {some-}.",
        "{clause-}.",
        "Worst of all, {clause-}.",
        "I could not forgive {the-}.",
        "Add {some-}, and you have {a film-} {mess-}.",
        "I was annoyed by {the-}.",
        "It is {a film-} piece of work.",
        "Everything about it is {film-}.",
        "I hated it.",
        "It {did-}.",
        "Nobody was smiling.",
    ),
    "~": (
        "{clause+}, but {clause-}.",
        "I liked {the+}, less so {the-}.",
        "You get {some+}, but also {some-}.",
        "At least {clause+}.",
        "Still, {clause-}.",
        "It could have been {film+} without {the-}.",
        "It is {film+}, if a little {film-}.",
        "Parts of it are {film+} and parts are {film-}.",
    ),
}

# Help for the reader: who it is for, or what it resembles.
GUIDES: Final[tuple[str, ...]] = (
    "It reminded me of {a genre} from {era}.",
    "It feels like {a plain} {genre} from {era}.",
    "It is made for {audience}.",
    "Think of {a genre} crossed with {a genre}.",
    "It is aimed at {audience}.",
    "Compared with most {genres}, it takes more risks.",
    "It would suit {audience}.",
)

# Padding that tells the reader nothing; some of it repeats itself, as careless writers do.
PADS: Final[tuple[str, ...]] = (
    "I guess it is the sort of thing that happens in this kind of thing.",
    "Anyway, there is stuff in it, and then there is more stuff after that.",
    "I do not know what else to say, but something about it was somehow there.",
    "Basically, it is what it is, and things happen, I suppose.",
    "You know how these things are, or maybe you do not, whatever.",
    "Some people will say one thing and some people will say another, I guess.",
    "It goes on and on and on, and then it sort of stops.",
    "Anyway, it is a film, and it does the kind of stuff films do.",
    "Somehow there was something about it that I could not put into words.",
    "It was there on the screen, basically, and I was there too, I suppose.",
    "I guess I saw it {when}, or maybe it was another {genre}, whatever.",
    "There are things in it, the kind of things {genres} have, I suppose.",
    "Maybe it is sort of {a plain} {genre}, or maybe it is sort of not.",
    "{who} said something or other about it, and I sort of agreed.",
    "Somehow it made me think of stuff, basically all kinds of stuff.",
)

INSULTS: Final[tuple[str, ...]] = (
    "The director is a talentless hack.",
    "Whoever wrote this garbage should be ashamed.",
    "Only an idiot would pay for this trash.",
    "What a moronic pile of rubbish.",
    "The stupid script was written by fools.",
    "The lead is a clown and the rest are morons.",
    "This garbage insults everyone who sees it.",
    "It is idiotic trash made by hacks.",
)

# A verdict closes the review; "" (no verdict) is decided in `grammar`.
CLOSINGS: Final[dict[str, tuple[str, ...]]] = {
    "+": (
        "I would happily watch it again.",
        "Highly recommended.",
        "I recommend it to {audience}.",
        "It is well worth a ticket.",
        "Four stars from me.",
        "Five stars from me.",
        "Do not miss it.",
        "I recommend it warmly.",
        "It is worth every minute.",
        "I will gladly see it again.",
        "My verdict is simple, go and see it.",
        "Worth seeing with {audience}.",
        "I can only recommend it.",
    ),
    "-": (
        "Skip it.",
        "I cannot recommend it.",
        "It is not worth a ticket.",
        "One star from me.",
        "Avoid it.",
        "Two stars from me, no more.",
        "I would not recommend it to {audience}.",
        "Save your money.",
        "Never again.",
        "My verdict is simple, stay at home.",
        "Better to skip it and read a book.",
        "I would warn {audience} to avoid it.",
        "It is not worth your evening.",
    ),
    "~": (
        "It is worth seeing once.",
        "Three stars from me.",
        "I would wait until it is on television.",
        "I recommend it only to {audience}.",
        "My verdict is a cautious yes.",
        "Worth a rainy evening, no more.",
        "See it, but keep your hopes low.",
        "I might give it a second chance.",
        "My verdict is a polite maybe.",
    ),
}

# ---- word sets of the taste -------------------------------------------------------------------------

WARM: Final[frozenset[str]] = frozenset(
    set(SLOTS["film+"])
    | set(SLOTS["treat+"])
    | set(SLOTS["mood+"])
    | {word for aspect in ASPECTS for word in aspect.good}
    | set(
        _words(
            "love, loved, loves, enjoy, enjoyed, liked, admired, recommend, recommended, worth, again, "
            "happily, gladly, warmly, charmed, delighted, moved, pleased, happy, best, shines, glows, "
            "smile, warmed, cheered, cheer, praise, lifts, lifted, lift, wonder, won, deserved, five, four, "
            "alive, deserves, deserve, saves, save"
        )
    )
) - {"save", "saves"}  # "Save your money" blames, "saves the film" praises: the word alone says neither

COLD: Final[frozenset[str]] = frozenset(
    set(SLOTS["film-"])
    | {"mess", "letdown", "failure", "chore", "disappointment", "bore", "misfire", "waste"}
    | {word for aspect in ASPECTS for word in aspect.bad}
    | set(
        _words(
            "hate, hated, bored, annoyed, irritated, regretted, disliked, drags, drag, spoils, spoil, "
            "spoiled, ruins, ruin, ruined, suffers, wastes, wasted, cold, worst, groan, skip, avoid, miss, "
            "warn, money, sunk, buried, nowhere, sorry, sleep"
        )
    )
)

INSULTING: Final[frozenset[str]] = frozenset(
    _words(
        "talentless, hack, hacks, garbage, ashamed, idiot, idiots, trash, moronic, moron, morons, rubbish, "
        "stupid, fool, fools, clown, clowns, idiotic, insults"
    )
)

FILLER: Final[frozenset[str]] = frozenset(
    _words("guess, sort, kind, thing, things, stuff, somehow, something, whatever, basically, suppose, anyway, maybe")
)

VERDICT: Final[frozenset[str]] = frozenset(
    _words(
        "recommend, recommended, worth, again, stars, star, miss, skip, avoid, verdict, ticket, chance, "
        "money, wait, hopes"
    )
)

GUIDANCE: Final[frozenset[str]] = frozenset(
    _words(
        "reminded, compared, crossed, suit, aimed, sixties, seventies, eighties, nineties, childhood, era, "
        "families, viewers, children, couples, fans, lovers, students, teenagers, grandparents"
    )
)

NEGATORS: Final[frozenset[str]] = frozenset(_words("not, never, no, cannot, hardly, nothing, nobody, nor, neither"))

FUNCTION: Final[frozenset[str]] = frozenset(
    _words(
        "a, an, the, this, that, these, those, it, its, i, me, my, you, your, we, they, he, she, is, are, "
        "was, were, be, been, has, have, had, do, does, did, will, would, could, can, cannot, should, "
        "might, and, or, but, yet, so, because, since, though, although, as, if, then, than, nor, neither, "
        "not, no, of, in, on, at, to, for, from, with, by, under, about, after, until, who, which, what, "
        "whoever, how, all, some, most, more, there, one, else, also, just, up, down, out, too, over, into, "
        "any, every, only, still, very"
    )
)


def aspect_words() -> dict[str, str]:
    """Map each word that names an aspect to that aspect; a noun phrase counts by its telling words."""
    # These also turn up where no aspect is meant: "a lead", "a work", "the final act", "on the side".
    common = {"final", "opening", "lead", "side", "work", "style", "running", "car", "supporting"}
    found: dict[str, str] = {}
    for aspect in ASPECTS:
        for noun in aspect.mass + aspect.single + aspect.plural:
            for word in noun.split():
                if word not in common:
                    found.setdefault(word, aspect.name)
    return found


def known_words() -> frozenset[str]:
    """Every lower-case word the generator can write, plus the taste's own sets."""
    texts: list[str] = [entry for entries in SLOTS.values() for entry in entries]
    for bank in (CLAUSES, OPENINGS, BODIES, CLOSINGS, *HEADS.values()):
        texts += [entry for entries in bank.values() for entry in entries]
    texts += [*GUIDES, *PADS, *INSULTS]
    for aspect in ASPECTS:
        texts += [*aspect.mass, *aspect.single, *aspect.plural, *aspect.good, *aspect.bad]
    # Slot names such as {genre} are not words, but the two forms in {is|are} are.
    plain = re.sub(r"\{[^{}|]*\}", " ", "\n".join(texts)).lower()
    words = set(re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", plain))
    return frozenset(words | {"a", "an"} | WARM | COLD | INSULTING | FILLER | VERDICT | GUIDANCE | NEGATORS | FUNCTION)
