"""The words of the tiny world: the pools that values come from and the parts of names.

No word is in two lists, so that each word has one role. The given names are those of women, since the wordings in
`kinds` call an artist "she".
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


POOLS = {
    "island": _words("""Arkoo Belmora Cindra Dorsay Eltis Farrow Gullmar Hestia Ilvane Jurra Kelda Lomond Mundra Norsay Ovalu
        Pescara Quinta Rossay Skerra Tolmen Ulva Vantis Wexay Yssel Zanta Ambra Brosk Calder Dunmar Erisk"""),
    "food": _words("""soup bread cheese dumplings pancakes beans lentils mushrooms pickles noodles porridge onions turnips plums
        apricots walnuts barley honey figs cabbage olives pumpkin rice sausages trout waffles dates leeks radishes
        quinces"""),
    "gem": _words("""ruby emerald sapphire opal topaz garnet jade pearl onyx agate beryl amethyst diamond zircon peridot jasper
        citrine moonstone lapis malachite turquoise quartz spinel obsidian"""),
    "colour": _words("""red blue green yellow purple orange white black brown grey pink crimson scarlet teal indigo violet
        maroon ivory turmeric beige cyan magenta olivine bronze"""),
    "animal": _words("""fox lamb badger weasel lynx wolf hare stoat goat donkey camel hedgehog squirrel tortoise ferret marten
        panther jackal lizard snake toad bear boar mole rat cat dog pony monkey leopard"""),
    "tree": _words("""oak birch willow maple cedar pine alder rowan hazel elm ash spruce larch cypress poplar beech linden
        chestnut juniper fir yew hawthorn sycamore mulberry"""),
    "tool": _words("""lanterns kettles compasses ladders hammers needles scissors mirrors barrels wheels umbrellas anchors
        candles locks lenses saws buckets brushes kites pumps scales spades stoves nets pipes"""),
}

PERSON_FIRST = _words("""Mira Tabea Elsa Johanna Petra Sylvie Nadia Olga Lena Vera Ines Helga Clara Emma Thea Agnes Greta
    Flora Ida Marta Selma Birgit Alma Carla Dina Edith Frida Gerda Hanna Ingrid Judith Karin Liesel Maren Nora Odile
    Paula Ruth Sonja Tilda""")
PERSON_SECOND = _words("""Halden Brook Varga Lindqvist Moreau Castell Dray Eklund Fenwick Grell Hobart Ilic Jansen Kowal Lasko
    Merrin Novak Oakes Prentiss Quist Rask Sorel Tenby Ulrich Voss Wilder Yates Zeller Abbot Bellamy Corey Dunning
    Ellery Foss Garrow Hale Ives Joyner Keene Lowell""")

CITY_FIRST = _words("""Aldmoor Bramwell Corvane Dunwick Elmsby Farleigh Glenmar Harwick Inverlo Jaspen Kilbran Lowick Marsden
    Norvale Oldham Penrose Quarrin Redmont Selwick Torvale Umberly Varrick Westerly Yarmond Zelmont Ashby Birkdale
    Carden Dovedale Eastlow Foxley Grimsby Hollis Ironby Kestwick Langley Millom Netherby Orford Prestwick""")
CITY_SECOND = _words("""Harbor Gate Bridge Heath Cross Mills Springs Hollow Ridge Falls Market Haven Abbey Castle Wells Fields
    Landing Quay Green Hill Point Park Bay Moor Vale Common Grange Meadow Tower Rock Sands Shore Dale Bank Barrow
    Chapel Forge Grove Lodge Marsh""")
COMPANY_FIRST = _words("""Orlan Bexley Caldor Dextra Evenlow Fabrin Gorman Hexam Imprex Jolan Kemper Ludlow Maxton Nordal Optima
    Parlow Quorum Randal Sterling Tavon Unwin Vexler Wolfram Xanter Yoxall Zephyr Ardent Boreal Cobalt Delphi Ember
    Falcon Granite Helix Iris Juno Krona Lumen Mistral Nimbus""")
COMPANY_SECOND = _words("""Works Brothers Partners Industries Trading Group Systems Holdings Foundry Supply Freight Goods Motors
    Designs Mining Press Traders Makers Sons Textiles Engines Power Timber Glass Metals Stores Lines Shipping
    Union Bureau Studios Exports Imports Ventures Labs Cables Papers Chemicals Dynamics Services""")
BIRD_FIRST = _words("""Dusky Crested Spotted Ringed Tufted Hooded Pale Golden Silver Masked Speckled Horned Bearded Collared Barred
    Banded Northern Southern Eastern Western Lesser Greater Lowland Mountain Tundra Forest Desert Coastal Striped
    Plain Royal Little Giant Shy Noisy Swift Silent Humble Proud Bright""")
BIRD_SECOND = _words("""Warbler Finch Sparrow Heron Plover Thrush Wren Swallow Bunting Pipit Curlew Kestrel Gull Tern Petrel Grebe
    Loon Crane Stork Ibis Duck Goose Swan Quail Partridge Pheasant Dove Pigeon Cuckoo Owl Nightjar Kingfisher Hoopoe
    Woodpecker Lark Martin Shrike Jay Magpie Starling""")
