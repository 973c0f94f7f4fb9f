"""Concepts that a reader may look for, each with the close words by which a hit is judged (`meaning.py`).

Written down before any search was made: words of the same kind, other forms and synonyms, in small letters. The demo's
text is of encyclopedias, speeches and code in three languages, so that some of these it hardly speaks of.
"""

from __future__ import annotations

CLOSE_WORDS: dict[str, str] = {
    "gender": "genders female male woman women man men girl boy feminine masculine sex he she her his",
    "anger": "angry angrily rage fury furious wrath hatred hate hated outrage outraged resentment hostile hostility",
    "bracket": "brackets parenthesis parentheses ( ) [ ] { } (( )) [[ ]] () [] {} (' (\" [' [\"",
    "month": "months january february march april may june july august september october november december",
    "weekday": "weekdays day days monday tuesday wednesday thursday friday saturday sunday weekend week",
    "number": "numbers numeral one two three four five six seven eight nine ten eleven twelve hundred thousand million",
    "year": "years decade decades century centuries annual annually season seasons",
    "nation": "nations country countries state states national republic kingdom france germany spain england italy",
    "city": "cities town towns village villages capital paris london rome madrid berlin municipality",
    "war": "wars battle battles military army armies troops soldiers fighting conflict invasion combat",
    "music": "musical song songs album albums band bands singer guitar concert orchestra opera",
    "film": "films movie movies cinema actor actress director television series",
    "football": "soccer league club clubs team teams match player players goal goals championship cup",
    "religion": "religious church churches god faith christian catholic islam muslim bishop pope priest holy",
    "king": "kings queen prince princess emperor royal throne duke monarch reign",
    "family": "families father mother son daughter brother sister wife husband parents children child uncle cousin",
    "animal": "animals dog dogs cat cats horse horses bird birds fish species mammal wolf bear",
    "plant": "plants flower flowers tree trees leaf leaves seed seeds species forest grass",
    "food": "foods eat eating meal bread meat wine cheese fruit rice cook cooking dinner",
    "water": "waters river rivers lake lakes sea seas ocean oceans coast island islands",
    "colour": "colours color colors red blue green yellow black white brown grey gray orange purple",
    "body": "bodies head heads hand hands eye eyes heart blood arm leg foot face skin",
    "disease": "diseases illness sick health cancer virus infection patient patients medical symptoms",
    "law": "laws legal court courts judge justice constitution constitutional rights trial crime",
    "government": "governments minister president parliament congress senate party state federal administration",
    "election": "elections vote votes voted voters electoral elected candidate candidates campaign",
    "money": "dollar dollars cost costs price prices pay paid tax taxes bank budget financial income",
    "science": "sciences scientific scientist scientists physics chemistry biology theory research experiment",
    "mathematics": "mathematical math theorem equation equations algebra geometry proof integral matrix",
    "computer": "computers software program programs programming code computing machine data digital",
    "function": "functions def method methods return returns argument arguments parameter parameters lambda",
    "error": "errors exception exceptions raise raises raised fail failed failure failures invalid valueerror",
    "school": "schools university universities college student students teacher teachers education class",
    "death": "deaths die dies died dead dying kill killed murder funeral grave",
    "love": "loves loved lover lovers beloved marriage married romance affection passion",
    "fear": "fears feared afraid terror terrorist terrorists scared panic danger dangerous threat",
    "speed": "fast faster quick quickly rapid rapidly slow slowly velocity pace",
    "direction": "directions north south east west northern southern eastern western left right",
    "negation": "not no never nothing none neither nor without cannot n't don't doesn't",
    "beginning": "begin begins began begun start starts started first initial initially opening origin",
}
"""Concept → close words, divided by spaces; the concept's own word counts too."""
