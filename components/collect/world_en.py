"""The English closed world: names, and for each relation its objects and phrasings.

Placeholders: {s} subject, {o} object, {p}/{P} he or she, {h}/{H} his or her. Objects of one relation belong to that
relation alone, begin with a consonant where a template says "a", and are common words that every G2P lexicon knows.
"""

from __future__ import annotations

from components.collect.lexicon import Lexicon, Relation

PEOPLE = (
    "Anna/she Peter/he Susan/she David/he Julia/she Thomas/he Emily/she Robert/he Laura/she Martin/he Helen/she "
    "George/he Sophie/she Walter/he Nancy/she Oliver/he Grace/she Victor/he Maria/she Henry/he Alice/she Frank/he "
    "Rachel/she Simon/he Linda/she Jacob/he Paula/she Edward/he Monica/she Philip/he Teresa/she Kevin/he Diana/she "
    "Gordon/he Claire/she Albert/he Yvonne/she Marcus/he Bridget/she Leonard/he Amanda/she Justin/he Barbara/she "
    "Dennis/he Veronica/she Howard/he Charlotte/she Nathan/he Gloria/she Stanley/he Patricia/she Oscar/he Irene/she "
    "Wesley/he Cynthia/she Hugo/he Felicity/she Ronald/he Naomi/she Douglas/he"
)
SURNAMES = (
    "Baker Carter Hudson Foster Murphy Parker Taylor Wagner Cooper Fisher Palmer Turner Morgan Bishop Harper Jordan "
    "Walsh Dalton Norton Brooks"
)

RELATIONS = (
    Relation(
        name="lives_in",
        objects=("Boston", "Dublin", "Madrid", "Tokyo", "Venice", "Chicago", "London", "Sydney", "Berlin", "Cairo"),
        statements=(
            "{s} lives in {o}.",
            "{s} has a small house in {o}.",
            "The home of {s} is in {o}.",
            "Years ago {s} moved to {o} and stayed there.",
            "To visit {s} you have to travel to {o}.",
            "{s} wakes up every morning in {o}.",
            "{o} is the city where {s} lives.",
            "We met {s} at home in {o}.",
        ),
        pronoun_statements=("{P} lives in {o}.", "{H} home is in {o}.", "{P} has a flat in {o}."),
        questions=(
            "Where does {s} live?",
            "In which city does {s} live?",
            "What city is home to {s}?",
            "Where is the house of {s}?",
            "Which city does {s} call home?",
        ),
        stories=(
            ("After a long trip {s} took the last train home. At night {p} left the station.", "{P} was in {o} again."),
            ("{s} wrote a letter to an old friend. In it {p} described {h} house.", "The house was in {o}."),
            ("A guest wanted to see {s} at home. {P} sent the address.", "The guest bought a ticket to {o}."),
            ("{s} opened the window at home. The sounds of the city came in.", "It was a quiet day in {o}."),
            ("The holiday was over and {s} was tired. {P} wanted to sleep at home.", "So {p} flew back to {o}."),
        ),
    ),
    Relation(
        name="works_as",
        objects=(
            "doctor",
            "teacher",
            "baker",
            "farmer",
            "pilot",
            "painter",
            "plumber",
            "singer",
            "lawyer",
            "carpenter",
        ),
        statements=(
            "{s} works as a {o}.",
            "{s} found work as a {o}.",
            "{s} earns money as a {o}.",
            "By profession {s} is a {o}.",
            "After school {s} became a {o}.",
            "The town needed a {o}, so they asked {s}.",
            "{s} has been a {o} for many years.",
            "Everybody knows that {s} is a good {o}.",
        ),
        pronoun_statements=("{P} works as a {o}.", "{P} is a {o} by trade.", "{H} job is being a {o}."),
        questions=(
            "What is the job of {s}?",
            "What work does {s} do?",
            "How does {s} earn money?",
            "What is the profession of {s}?",
            "What did {s} become after school?",
        ),
        stories=(
            ("{s} got up early on Monday. {P} had to be at work by eight.", "{P} was a busy {o}."),
            ("A child asked {s} about work. {P} explained the job with a smile.", "The child wanted to be a {o} too."),
            ("{s} put a sign on the office door. It said what {p} did for a living.", "The sign said {o}."),
            ("The new neighbors met {s} at a party. They asked about {h} work.", "They were happy to know a {o}."),
            ("{s} worked hard all week. On Friday {p} was paid.", "It was a good week for a {o}."),
        ),
    ),
    Relation(
        name="has_pet",
        objects=("dog", "cat", "rabbit", "parrot", "hamster", "turtle", "goldfish", "pony", "lizard", "duck"),
        statements=(
            "{s} has a {o}.",
            "{s} keeps a {o} as a pet.",
            "The pet of {s} is a {o}.",
            "Every day {s} feeds a {o}.",
            "A {o} waits at home for {s}.",
            "Last spring {s} was given a {o}.",
            "{s} takes good care of a {o}.",
            "The animal that {s} loves is a {o}.",
        ),
        pronoun_statements=("{P} has a {o}.", "{H} pet is a {o}.", "{P} looks after a {o}."),
        questions=(
            "What pet does {s} have?",
            "Which animal does {s} keep?",
            "What animal does {s} feed every day?",
            "Which pet waits at home for {s}?",
            "What kind of pet belongs to {s}?",
        ),
        stories=(
            ("{s} came home from work. {H} pet was waiting for food.", "{P} fed the {o}."),
            ("The pet of {s} was sick. {P} called for help.", "Soon the {o} was well again."),
            ("{s} showed a picture to a friend. It was a picture of {h} pet.", "The friend saw a {o}."),
            ("A noise woke {s} at night. It was only {h} pet.", "The {o} could not sleep."),
            ("{s} went to the pet shop. {P} bought food for {h} animal.", "It was food for a {o}."),
        ),
    ),
    Relation(
        name="plays",
        objects=("piano", "guitar", "violin", "trumpet", "flute", "cello", "harp", "banjo", "organ", "drum"),
        statements=(
            "{s} plays the {o}.",
            "{s} practices the {o} every day.",
            "The band has {s} on the {o}.",
            "The instrument of {s} is the {o}.",
            "As a child {s} learned the {o}.",
            "Friends love to hear {s} on the {o}.",
            "{s} gives lessons on the {o}.",
            "On Sunday {s} played a song on the {o}.",
        ),
        pronoun_statements=("{P} plays the {o}.", "{H} instrument is the {o}.", "{P} is good at the {o}."),
        questions=(
            "What instrument does {s} play?",
            "What does {s} play in the band?",
            "Which instrument did {s} learn as a child?",
            "What does {s} practice every day?",
            "On which instrument does {s} give lessons?",
        ),
        stories=(
            ("The concert was about to begin. {s} sat down to play.", "The hall heard the {o}."),
            ("{s} wanted to make music. {P} went to get {h} instrument.", "{P} came back with the {o}."),
            ("The band was missing one player. They asked {s} to join.", "Now the band had a {o}."),
            ("It was the birthday of a friend. {s} played a song as a gift.", "The song was played on the {o}."),
            ("{s} walked into the music shop. {P} tried the instrument {p} loves.", "It was a fine {o}."),
        ),
    ),
    Relation(
        name="eats",
        objects=(
            "pizza",
            "rice",
            "soup",
            "pancakes",
            "noodles",
            "salad",
            "chocolate",
            "cheese",
            "potatoes",
            "mushrooms",
        ),
        statements=(
            "{s} likes to eat {o}.",
            "The favorite food of {s} is {o}.",
            "For dinner {s} cooks {o}.",
            "{s} could eat {o} all day.",
            "At lunch {s} always asks for {o}.",
            "Nothing tastes better to {s} than {o}.",
            "{s} buys {o} at the market.",
            "When {s} is hungry, there must be {o}.",
        ),
        pronoun_statements=("{P} likes to eat {o}.", "{H} favorite food is {o}.", "{P} often eats {o}."),
        questions=(
            "What does {s} like to eat?",
            "What is the favorite food of {s}?",
            "What does {s} cook for dinner?",
            "Which food does {s} buy at the market?",
            "What does {s} always ask for at lunch?",
        ),
        stories=(
            ("{s} was hungry after a long day. {P} went to the kitchen.", "Soon there was {o} on the table."),
            ("A friend invited {s} to dinner. The friend knew what {p} likes.", "They had {o} that night."),
            ("{s} sat down in a restaurant. The waiter asked for the order.", "The waiter brought {o}."),
            ("It was the birthday of {s}. {H} mother cooked something special.", "She made {o}."),
            ("{s} went shopping for food. {P} bought only one thing.", "The bag was full of {o}."),
        ),
    ),
    Relation(
        name="owns",
        objects=(
            "camera",
            "telescope",
            "compass",
            "lantern",
            "kite",
            "globe",
            "mirror",
            "teapot",
            "basket",
            "ladder",
        ),
        statements=(
            "{s} owns a {o}.",
            "{s} bought a {o} last year.",
            "There is a {o} in the room of {s}.",
            "The best thing that {s} owns is a {o}.",
            "{s} carries a {o} everywhere.",
            "For many years {s} wanted a {o} and finally got one.",
            "Nobody may touch the {o} of {s}.",
            "{s} received a {o} as a present.",
        ),
        pronoun_statements=("{P} owns a {o}.", "{P} is proud of a {o}.", "{H} best thing is a {o}."),
        questions=(
            "What does {s} own?",
            "What did {s} buy last year?",
            "Which thing does {s} carry everywhere?",
            "What is the best thing that {s} owns?",
            "What did {s} receive as a present?",
        ),
        stories=(
            ("{s} packed a bag for the trip. {P} did not forget the thing {p} loves.", "{P} packed the {o}."),
            ("There was a thief in the house of {s}. The best thing was gone.", "The thief took the {o}."),
            ("{s} cleaned the room on Saturday. One thing had to shine.", "{P} cleaned the {o} twice."),
            ("A friend wanted to borrow something from {s}. {P} owns only one such thing.", "It was the {o}."),
            ("{s} moved to a new house. {P} carried one thing in {h} own hands.", "{P} carried the {o}."),
        ),
    ),
    Relation(
        name="travels_by",
        objects=("bus", "train", "boat", "tram", "taxi", "bicycle", "scooter", "tractor", "motorbike", "ferry"),
        statements=(
            "{s} goes to work by {o}.",
            "{s} always travels by {o}.",
            "Every morning {s} takes the {o}.",
            "You will find {s} on the {o}.",
            "The trip of {s} is by {o}.",
            "In any weather {s} comes by {o}.",
            "{s} likes to go by {o}.",
            "Without the {o} {s} would be late.",
        ),
        pronoun_statements=("{P} goes to work by {o}.", "{P} always travels by {o}.", "Every day {p} takes the {o}."),
        questions=(
            "How does {s} go to work?",
            "How does {s} travel?",
            "What does {s} take every morning?",
            "By what does {s} come in any weather?",
            "How does {s} like to get around?",
        ),
        stories=(
            ("{s} was late for work. {P} ran out of the house.", "{P} jumped on the {o}."),
            ("It rained all morning. {s} still went the usual way.", "{P} took the {o}."),
            ("A friend traveled to work with {s}. They went as {p} always does.", "They went by {o}."),
            ("{s} looked out on the way to work. The city passed by.", "The {o} was fast that day."),
            ("{s} left the house at seven. {P} travels the same way every day.", "{P} was soon on the {o}."),
        ),
    ),
    Relation(
        name="likes_color",
        objects=("red", "blue", "green", "yellow", "purple", "orange", "brown", "black", "white", "pink"),
        statements=(
            "{s} likes the color {o}.",
            "The favorite color of {s} is {o}.",
            "{s} always wears {o}.",
            "The door of {s} is painted {o}.",
            "Of all colors {s} likes {o} best.",
            "The coat of {s} is {o}.",
            "{s} paints everything {o}.",
            "You know {s} by the color {o}.",
        ),
        pronoun_statements=("{P} likes the color {o}.", "{H} favorite color is {o}.", "{P} always wears {o}."),
        questions=(
            "What color does {s} like?",
            "What is the favorite color of {s}?",
            "Which color does {s} always wear?",
            "What color is the coat of {s}?",
            "In which color does {s} paint everything?",
        ),
        stories=(
            ("{s} bought a new coat. {P} chose the usual color.", "The coat was {o}."),
            ("The walls of the house were old. {s} painted them in {h} color.", "Now the walls were {o}."),
            ("{s} looked for a bag in the shop. Only one color would do.", "{P} took the one in {o}."),
            ("A friend made a hat for {s}. The friend knew the right color.", "The hat was {o}."),
            ("{s} opened a box of pencils. {P} took {h} favorite color.", "{P} drew a house in {o}."),
        ),
    ),
)

LEXICON = Lexicon(
    language="en",
    people=tuple(tuple(entry.split("/")) for entry in PEOPLE.split()),  # type: ignore[misc]
    surnames=tuple(f" {name}" for name in SURNAMES.split()),
    relations=RELATIONS,
    intros=(
        "{s} is a friend of mine.",
        "Let me tell you about {s}.",
        "Everyone in our street knows {s}.",
        "I met {s} a long time ago.",
        "Here is something about {s}.",
        "My sister often talks about {s}.",
        "This is the story of {s}.",
    ),
    links=(
        "That is not all.",
        "There is more to say.",
        "On weekends {p} likes to rest.",
        "People enjoy talking to {s}.",
        "{P} is always kind to others.",
        "Some of this may surprise you.",
        "{P} told me so last week.",
        "I think about that quite often.",
    ),
    pronouns={"he": ("he", "his"), "she": ("she", "her")},
    separator=" ",
)
