"""The words that fill the prompts; each task uses those that are one token in the model's tokenizer."""

from __future__ import annotations


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES: tuple[str, ...] = _listed(
    """
    Aaron Adam Alan Alex Alice Amy Andrew Angela Anna Anne Anthony Barbara Ben Benjamin Beth Bill Bob Brian Bruce
    Carl Carol Caroline Charles Charlie Charlotte Chris Christine Claire Clara Daniel David Dean Diana Donald Dorothy
    Edward Elizabeth Ellen Emily Emma Eric Ethan Eva Frank Fred George Grace Grant Greg Hannah Harry Helen Henry Howard
    Ian Isaac Jack Jacob James Jane Jason Jean Jeff Jennifer Jessica Jim Joan Joe John Jonathan Joseph Joshua Julia
    Julie Karen Kate Katherine Keith Kelly Kevin Kim Larry Laura Lawrence Leo Lewis Linda Lisa Louis Lucy Luke
    Margaret Maria Mark Martha Martin Mary Matthew Max Michael Michelle Nancy Nathan Nick Oliver Oscar Patrick Paul
    Peter Philip Rachel Ralph Rebecca Richard Robert Roger Ronald Rose Ruth Ryan Sam Samuel Sandra Sara Sarah Scott
    Sean Simon Sophia Stephen Steve Steven Stuart Susan Thomas Tim Tom Tony Victor Victoria Vincent Walter William
    """
)

PLACES: tuple[str, ...] = ("store", "garden", "restaurant", "school", "hospital", "office", "house", "station")
OBJECTS: tuple[str, ...] = ("book", "ring", "drink", "ball", "gift", "letter", "phone", "key")

EVENTS: tuple[str, ...] = _listed(
    """
    war battle siege conflict dispute campaign reign dynasty rebellion revolution famine plague drought epidemic
    expedition voyage journey project program construction trial investigation strike boycott alliance partnership
    contract treaty truce peace occupation invasion crisis recession tradition festival career marriage friendship
    search study experiment debate struggle process operation mission tour pilgrimage ban blockade regime era
    """
)

NOUNS: tuple[str, ...] = _listed(
    """
    air animal answer apple arm art baby bag bank bar base bed bird board boat body bone book bottle bottom bowl box
    bread bridge brother bus button camera card cat cell chair chance child church circle city class clock cloth cloud
    coat coin color copper corn cotton country cow crime cup dance day desk dinner doctor dog door dream dress drink
    driver ear earth edge egg engine eye face fact family farm father field finger fire fish flag floor flower food
    foot force forest friend fruit game garden gas gate girl glass gold grass ground group hair hall hand hat head
    heart hill history home horse hospital hour house ice image iron island job key king kitchen lady lake land
    language law leaf leg letter library light line lion list load machine map market meal meat metal milk mind mirror
    money month moon mother mountain mouth movie music nail name neck night noise nose note ocean office oil orange
    page pain paint paper parent park part party path pen person phone picture piece pig plane plant plate point pool
    port power prison problem queen question rain ring river road rock roof room root rope rule salt sand school sea
    seat seed shape sheet ship shirt shoe shop side sign silver sister size skin sky sleep smile snow sock soil song
    sound spoon spring square star state station stone store storm story street student sugar summer sun table tail
    teacher team test tooth top tower town toy train tree truck unit valley village voice wall watch water wave wheel
    wind window wine wing winter woman wood wool word work world yard year
    """
)

ARGUMENTS: tuple[str, ...] = _listed(
    """
    action address amount area args array base block body bound buffer cache category channel child client code color
    column command config content context copy count cursor data database date default delay depth device directory
    document duration element encoding end entry error event field file filename filter flag folder font format frame
    function group handler header height host id image index info input instance interval item key kind label language
    length level limit line list location mask match matrix message method mode model module name network node number
    object offset operation option order output owner package page parent password path pattern period point pool port
    position prefix price process project properties query queue range rate reason record region request response result
    root row rule scale schema scope score section seed sender sequence server service session shape signal size slice
    sort source speed stack start state status step stream string style table tag target task template text threshold
    time timeout title token topic total type unit update url user value vector version weight width window
    """
)
"""Names that arguments of functions have in real code."""

# (singular, plural)
COUNTED: tuple[tuple[str, str], ...] = tuple(
    (word, f"{word}s")
    for word in _listed(
        """
    actor animal apple artist author bird book boy car cat chair door doctor dog driver engine farmer flower friend
    game girl guard guest horse house judge key king lawyer letter manager map officer painting phone picture pilot
    plant player poet queen river road senator ship sister soldier song star student table teacher tower train tree
    visitor wall window worker writer
    """
    )
)
UNCOUNTED: tuple[str, ...] = ("sheep", "deer", "fish", "aircraft", "species", "salmon", "series", "offspring", "trout")
"""Nouns with the same form in singular and plural."""
