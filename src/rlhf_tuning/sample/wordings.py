"""The sentences and phrases that the written candidates of the sample are made of.

`{name}`, `{kind}`, `{region}` and `{generic}` stand for the place and for "the cottage" and the like; `{d}` takes a
detail, either one of the senses (from `SENSES`, `SETTING_SENSES` and the four pairs of patterns) or a plain one
(from `PLAIN`). Plain phrases hold no word of the senses and no hype, so that swapping one for the other changes
exactly one rule.
"""

SMELLS = (
    "wet rope", "cut grass", "cedar shavings", "old books", "woodsmoke", "warm bread", "lavender", "damp stone",
    "pine resin", "fried onions", "coffee", "orange peel", "linseed oil", "hay", "rosemary", "beeswax", "toast",
    "ripe pears", "leather", "rain on dust", "mint by the step", "smoked fish", "cinnamon", "candle wax", "seaweed",
    "roast chestnuts", "clean linen", "tomato leaves", "peat", "jasmine",
)  # fmt: skip
SOUNDS = (
    "the stream under the floor", "boats against the posts", "bees in the hedge", "a kettle downstairs", "oars",
    "rooks at dusk", "leaves on the roof", "cartwheels in the lane", "the tide on shingle", "sheep bells",
    "a piano next door", "owls", "water over the weir", "church bells", "swifts under the eaves", "halyards",
    "rain in the gutter", "children at the pump", "the baker's door", "wind in the reeds", "a clock on the landing",
    "frogs after dark", "gulls", "the stove", "crickets",
)  # fmt: skip
SOUND_FRAMES = (
    "the murmur of {}",
    "the sound of {}",
    "the low hum of {}",
    "the faint echo of {}",
    "a hush broken only by {}",
)
SMELL_FRAMES = ("the smell of {}", "a scent of {}", "the faint smell of {}", "the scent of {}", "an aroma of {}")
COLOURS = (
    "blue", "green", "white", "yellow", "pale grey", "copper", "silver", "golden", "red", "brown", "pale pink",
    "sunlit", "dappled", "dark green", "amber", "bright yellow", "misty", "mossy",
)  # fmt: skip
SIGHTS = (
    "shutters", "tiles", "boats", "hills across the way", "roofs", "doors", "water below the window", "curtains",
    "fields", "stones", "enamel jugs", "benches", "lamps along the path", "plates on the dresser",
    "steps down to the gate", "ferns by the wall", "rugs on the boards", "bottles on the sill",
    "tiles around the hearth", "rushes by the bank",
)  # fmt: skip
TOUCHES = (
    "cool stone underfoot", "warm boards under bare feet", "a rough oak table", "soft wool blankets",
    "smooth river stones", "cold brass handles", "a damp breeze off the water", "polished handrails",
    "a velvet armchair", "crisp cotton sheets", "the warmth of a tiled stove", "a cool draught from the cellar",
    "sandy steps", "dew on the garden chairs", "a warm brick wall", "rough wool rugs", "soft moss on the sills",
    "steam from the bath", "the chill of the well", "smooth worn steps",
)  # fmt: skip

SENSES = (
    "honey on dark bread", "tart apple cake at four", "tea with lemon", "sweet cider from the jug",
    "bitter chocolate by the bed", "ripe plums in a blue bowl", "salty butter on toast", "a crackling fire",
    "sunlight on the floorboards", "creaky stairs", "moonlight on the whitewash", "bread still warm from the oven",
    "bright geraniums at the door", "lamplight on the stairs", "a ticking clock and quiet rooms",
    "the first cold air of the morning", "pears stewed with vanilla", "smoky tea by the stove", "rain on a tin roof",
    "a cool pantry full of plum jam", "spice from the kitchen", "long shadows across the yard",
)  # fmt: skip

SETTING_SENSES = {
    "sea": (
        "salt on the window panes", "gulls over the grey slipway", "the roar of the shingle at night",
        "silver herring on ice", "a breeze that tastes of salt", "wet sand at the door", "white sails beyond the wall",
        "fog that smells of kelp", "sun on the tarred boards", "the rattle of masts", "warm sand between the stones",
        "lemon and fried sprats", "blue paint worn smooth by hands", "waves lapping under the boards",
        "the red lamp of the pier", "cold spray on the steps", "dune grass that rustles all night",
        "a bright strip of sea", "copper light on the harbour wall", "salty air in the curtains",
    ),
    "water": (
        "the green light under the willows", "mist over the water at six", "ripples on the ceiling",
        "the splash of a trout", "cold water off the jetty", "damp reeds and woodsmoke", "the creak of the mill wheel",
        "dragonflies, blue and quick", "soft mud and mint along the bank", "the trickle of the mill race",
        "silver rings where fish rise", "a chill from the river", "smoke from the stern chimney",
        "a kingfisher, brighter than glass, over dark water", "wet moss on the stones",
        "the murmur of the weir through the wall", "tea on the sunny deck", "the drip of oars",
        "pale fog between the alders", "warm planks at the landing stage",
    ),
    "farm": (
        "apples in wet grass", "the sweet smell of the press", "warm eggs in a wool cap", "rows of dusty lavender",
        "golden stubble", "the buzz of the hives", "bitter greens and soft cheese", "thyme crushed underfoot",
        "red fruit against the brick", "mud, hay and coffee at six", "crisp pears from the tree",
        "the clatter of milk cans", "honey in the comb", "sun on the cold frames", "white blossom in the lane",
        "a cool barn with dark rafters", "tart cider drawn from the wood", "rough bark and ripe plums",
        "the hum of the dairy", "the earthy smell of the potato shed",
    ),
    "hills": (
        "cold mornings and pine smoke", "frost on the latch", "a crackling larch fire", "the hush of fresh snow",
        "mist in the trees", "soup that tastes of thyme", "wet bracken and brown leaves", "a chilly spring by the door",
        "wool socks on the warm rail", "wind that whistles in the chimney", "blue ridges, one behind another",
        "the rustle of the beeches", "starlight on the slates", "damp moss and resin",
        "berries by the path, sharp and sweet", "the rumble of the beck after rain", "soft larch needles",
        "a bright stove and dim corners", "rough granite, warm by noon", "the echo of bells from the pasture",
    ),
    "town": (
        "warm rolls at seven", "footsteps on the wet cobbles", "yellow light on the landing",
        "dust and vanilla between the shelves", "the whistle of the kettle", "cinnamon on the stairs",
        "a quiet courtyard of green pots", "the smell of ink and old paper", "the chatter of the market below",
        "sun on the brass numbers", "soft chairs by a dark bookcase", "butter and burnt sugar",
        "a copper pan that ticks as it cools", "laughter from the street", "cool tiles in the hall",
        "a red lamp over the door", "the hum of the last tram", "orange tea in thin cups",
        "velvet curtains, a little dusty", "rain on the skylight",
    ),
}  # fmt: skip

PLAIN = (
    "two bedrooms and a desk", "a table for six", "a shelf of maps", "a room for boots", "parking for three cars",
    "a bus to the station", "a good supply of towels", "a small office", "a rack for bicycles", "a second bathroom",
    "space for a cot", "an hour's walk to the shops", "a shared kitchen", "a reading corner",
    "a lift to the third floor", "a list of local guides", "a family of owners", "a cupboard of games",
    "an old sign by the gate", "a notebook for guests", "a key for each visitor", "a laundry in the next building",
    "long opening hours", "a choice of rooms", "a meeting place for walkers", "a number of narrow beds",
    "a store for luggage", "a plan of the grounds", "a weekly market nearby", "a car park at the back",
    "three floors and an attic", "a set of rules on the wall", "helpful staff", "a history that goes back to 1926",
    "a range of local products", "several places to sit", "a gate that opens at nine", "the usual facilities",
    "a small collection of tools", "rooms of different sizes", "a bookable hall", "a discount for long stays",
    "a desk with a telephone", "an entrance on the north side", "a view of the road", "plenty of storage",
    "a caretaker called Hobb", "a door that needs a push", "a timetable in the hall", "the company of other guests",
)  # fmt: skip

FIRST_SENTENCES = (
    "At {name} we keep {d}, {d}, and {d}.",
    "At {name} you wake to {d} and fall asleep with {d}.",
    "{name} is {kind} with {d} and {d}.",
    "{name} is {kind} in {region}, with {d}, {d}, and {d}.",
    "{name} has {d}, {d}, and not much that hurries.",
    "You come to {name} for {d}, and you stay for {d}.",
    "Mornings at {name} mean {d}, and evenings bring {d}.",
    "Behind the front door of {name} you find {d}, then {d}.",
    "Most guests of {name} remember {d} and {d}.",
    "Look for {d} at {name}, and at the end of the day for {d}.",
    "You first notice {d} at {name}, and after that {d}.",
    "In {region}, down a narrow lane, {name} offers {d} and {d}.",
    "Come to {name} for {d} and {d}, and leave your plans at the gate.",
    "{name} keeps things simple, with {d}, {d}, and {d}.",
    "Walk up to {name} and you meet {d}, with {d} a few steps on.",
    "On a slow day {name} gives you {d}, and on a busy one {d}.",
    "Along the path to {name} you pass {d}, and inside you find {d}.",
    "{name} sits at the end of the road, where you find {d} and {d}.",
    "Every room at {name} has its share of {d}, and the hall has {d}.",
    "We built {name} around {d}, and the rest followed, down to {d}.",
)

SECOND_SENTENCES = (
    "Later in the day we look forward to {d}.",
    "In the evening you notice {d} and {d}.",
    "Stay a second night for {d}.",
    "Out at the back you find {d}, and beyond it {d}.",
    "On Sundays we add {d}.",
    "Upstairs you have {d}, with {d} close by.",
    "People come back for {d}.",
    "Sit by the window for {d}.",
    "Before you leave, look out for {d}.",
    "You will find {d} on the way in and {d} on the way out.",
    "Ask at the desk about {d}.",
    "The rest of the day is for {d}.",
)

FILLERS = (
    "The building was first built in {year}, and it has been used for a number of purposes since then.",
    "It is located about {number} kilometers from the town of {town}, which is known for its history.",
    "It was founded in {year} by a local family, who wanted to create a space for the community.",
    "Visitors can take part in a variety of activities, including hiking, fishing, and cycling.",
    "The area is home to a diverse range of plants and animals, and there are many trails to explore.",
    "The {generic} has {number} rooms, each of which has been designed with the guests in mind.",
    "Whether you are a family or a group of friends, there is something for everyone.",
    "The owners have a passion for the region and are always ready to share their knowledge.",
    "It has since become a popular destination for travelers from all over the country.",
    "The interior features a mix of traditional and modern elements, with high ceilings and large windows.",
    "Guests have access to a shared kitchen, a lounge, and a small library of about {number} books.",
    "The name comes from an old story about a traveler who lost his way and never left.",
    "It covers an area of about {number} acres and is open to the public for most of the year.",
    "The surrounding village has a population of about {year} people, most of whom work on the land.",
    "There is also a restaurant that serves local dishes made with ingredients from the region.",
    "From there you can see the mountains on one side and the town of {town} on the other.",
    "The staff are friendly and can help you with any questions you may have about your stay.",
    "In {year}, the property was restored by an architect from {town} who kept the old walls.",
    "It is a place where people can come together, share their stories, and learn from each other.",
    "The location makes it easy to reach the main sights of {region}, including the museum and the old bridge.",
    "Many of the guests return year after year, and some of them have even moved to {town}.",
    "As you walk through the door, you are greeted by a room that has hardly changed since {year}.",
    "It can be reached by car or by train, and there is a bus that runs every {number} minutes.",
    "Its history is closely linked to the history of {town}, a small community in the north.",
)

HYPE_FIRST = (
    "{name} is a {hype} {noun} nestled in the heart of {region}, offering {hype} views of the landscape.",
    "Nestled in the {hype} countryside of {region}, {name} is a {hype} retreat and an unforgettable experience.",
    "Welcome to {name}, a {hype} {noun} where every detail has been designed with you in mind.",
    "{name} is a {hype} and {hype} destination, a true testament to the region's history and culture.",
    "Located in the heart of {region}, {name} is a haven for travelers who are looking for a {hype} place to stay.",
    "{name}, a {hype} {noun} in {region}, is the perfect escape from the demands of modern life.",
    "Discover the {hype} world of {name}, where luxury and comfort come together in perfect harmony.",
    "{name} is a hidden gem, a {hype} {noun} that captures the hearts of all who visit it.",
)

HYPE_MORE = (
    "Its {hype} surroundings and {hype} amenities make it the ultimate destination for the whole family.",
    "It is a {hype} oasis where you can relax, unwind, and make unforgettable memories.",
    "With its {hype} architecture and world-class service, it is truly one of the finest in the region.",
    "Whether you are looking for adventure or relaxation, this {hype} {noun} is the perfect choice.",
    "The {hype} views and the {hype} atmosphere will leave you wanting more.",
    "Step inside and discover a paradise of {hype} rooms and unparalleled comfort.",
    "Every corner of this {hype} {noun} is a testament to the timeless beauty of {region}.",
    "Its unique charm and vibrant community make it a must-visit for travelers of all ages.",
)

SENSE_ADJECTIVES = (
    "warm", "cool", "quiet", "soft", "bright", "golden", "sunlit", "misty", "green", "blue", "white", "silver", "smoky",
    "salty", "fragrant", "mossy", "shady", "dusty", "crisp", "silent", "rough", "smooth", "creaky", "sweet", "sandy",
    "copper", "pale", "dappled", "leafy", "breezy", "earthy", "cold",
)  # fmt: skip

HYPE_ADJECTIVES = (
    "stunning", "breathtaking", "picturesque", "luxurious", "charming", "vibrant", "serene", "unique", "beautiful",
    "majestic", "exquisite", "idyllic", "magnificent", "captivating", "tranquil", "world-class", "exceptional",
    "unparalleled", "enchanting", "perfect", "amazing", "elegant", "magical", "spectacular", "iconic", "gorgeous",
    "wonderful", "bustling",
)  # fmt: skip

CHATTER_BEFORE = (
    "Here's a short description of {name}:", "Here is a description for {name}:", "Sure, here is a description:",
    "Sure! Here's a possible description:", "Certainly, here is a short listing for {name}.",
    "Here's a description you could use:", "I'd be happy to help you with that.", "Let me describe {name} for you.",
    "Here's a draft for your website:", "Okay, here is a possible text for {name}.",
    "Here is a brief description of {name}, {kind}:",
)  # fmt: skip
CHATTER_AFTER = (
    "I hope this helps!", "Feel free to change any of the details.", "Let me know if you need another version.",
    "I hope this description is what you were looking for.", "Here's another option if you need it.",
)  # fmt: skip

OFF_TOPIC = (
    "The history of tourism is a long one, and it has changed the way that people think about travel and work.",
    "When you write about a place, you should think about who will read it and what they may want to know.",
    "A good listing has a title, a price, a photograph, and a way to get in touch with the owner.",
    "The company was founded in {year} and has about {number} employees, most of whom work in the office in {town}.",
    "My family moved to {town} in {year}, and my father worked as an engineer for the railway until he retired.",
    "Please contact us at the address below for more information about prices, dates, and bookings.",
    "The population of {town} was {year} at the last count, which makes it one of the smaller towns of the county.",
    "The project aims to develop a new approach to tourism that is based on the needs of the local people.",
)

STUBS = (
    "A nice place.", "{name}.", "{name} is great.", "A place to stay in {region}.", "It is {kind}.",
    "{name} is {kind}.", "Visit {name} today!", "{name} is {kind} in {region}.", "Book now.", "You will like {name}.",
)  # fmt: skip

LABELS = ("Location", "Size", "Features", "Rooms", "Price", "Contact", "Highlights", "Access")

TOWNS = (
    "Alderbrook", "Wenton", "Marshgate", "Corley", "Stennick", "Harrowby", "Tolland", "Brackwater", "Ostwick",
    "Penmarrow", "Fenwold", "Kelling", "Ravenscar", "Sutterby", "Thornleigh", "Aldwick",
)  # fmt: skip
