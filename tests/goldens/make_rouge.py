"""Writes rouge/golden.json: ROUGE-1 of harmless sentences and stems of words, by Google's rouge_score.

    pip install rouge-score==0.1.2 nltk
    python tests/goldens/make_rouge.py
"""

import json
import random
from importlib.metadata import version
from pathlib import Path

from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

ROOTS = """relat condit valenc hesit digit conform radic differ vil analog vietnam predic oper feud decis hope call
form sens tripl electr good reviv allow infer airlin gyroscop adjust defens irrit replac depend adopt homolog commun
activ angul effect bowdler probat ceas controll roll happ enjo sk fl tr pla geo theo archaeo hop tann fall hiss fizz
fail fil mot syzyg to agre pl b s st""".split()

ENDINGS = """ e s es ies ied ed ing eed y ly li alli ational tional enci anci izer bli ably alli entli eli ousli ization
ation ator alism iveness fulness ousness aliti iviti biliti fully fulli logi logy icate ative alize iciti ical ful ness
al ance ence er ic able ible ant ement ment ent ion tion sion ou ism ate iti ous ive ize ll le ss sses""".split(" ")

WORDS = """sky skies dying lying tying news innings inning outings outing cannings canning howe proceed exceed succeed
dies died flies spied tries tied ties caresses ponies cats feed agreed plastered bled motoring sing hopping tanned
falling hissing fizzed failing filing happy spy enjoyment yyyy ayyy 2024 12th x86 4k a1b2s 100s""".split()

SENTENCES = [
    "The gardener watered the roses twice before the visitors arrived.",
    "Roses were watered two times by gardeners; visitors arriving later enjoyed them!",
    "A gardener waters roses.",
    "SELECT name, COUNT(*) FROM singers WHERE age > 20 GROUP BY name",
    "select count(*), name from singer where age >= 20 group by name;",
    "Amanda baked cookies and will bring Jerry some tomorrow.",
    "Amanda's cookies: she baked them, and she'll bring some to Jerry tomorrow :-)",
    "the the the the",
    "the cat and the dog and the bird",
    "Relational conditions happily generalized the radically different analogies.",
    "Relate conditionally; happiness generalizes radical differences, analogously.",
    "Caf\u00e9s na\u00efvely r\u00e9sum\u00e9d at 7:30\u00a0pm \u2014 \u0130stanbul's \u212aelvin.",
    "cafes naively resumed at 730 pm istanbul s kelvin",
    "x_y 3.14 1,000 e-mail under_score",
    "...",
    "",
    "skies dying news outings proceed succeeded",
    "sky die new outing proceeds succeeding",
]


def main():
    rng = random.Random(0)
    words = {root + ending for root in ROOTS for ending in ENDINGS} | set(WORDS)
    # Letters that the rules look at, in any order.
    words |= {"".join(rng.choices("aeiouysltzbndgw1", k=rng.randint(3, 10))) for _ in range(1500)}
    stemmer = PorterStemmer()
    cases = []
    plain, stemmed = (RougeScorer(["rouge1"], use_stemmer=stem) for stem in (False, True))
    for reference in SENTENCES:
        for response in SENTENCES:
            scores = [scorer.score(reference, response)["rouge1"].fmeasure for scorer in (plain, stemmed)]
            cases.append({"reference": reference, "response": response, "plain": scores[0], "stemmed": scores[1]})
    golden = {
        "made_with": {name: version(name) for name in ("rouge-score", "nltk")},
        "cases": cases,
        "stems": " ".join(f"{word}:{stemmer.stem(word)}" for word in sorted(words)),
    }
    path = Path(__file__).parent / "rouge" / "golden.json"
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


main()
