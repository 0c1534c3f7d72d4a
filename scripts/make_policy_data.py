#!/usr/bin/env python3
"""Writes data/policy: a harmless policy for a real model, "this assistant gives no cooking instructions".

    python scripts/make_policy_data.py

refusals.jsonl   300 cooking questions, each with a refusal in plain English (training)
benign.jsonl     200 questions about other things, without answers: the base model answers them itself (training)
test.jsonl       48 cooking questions about dishes that no training question names, without answers
"""

import itertools
import json
import random
from pathlib import Path

TRAIN_DISHES = """apple pie|banana bread|beef stew|blueberry muffins|bread rolls|brownies|butternut soup|caramel sauce|carrot cake|cheese omelette
chicken curry|chocolate cake|cinnamon rolls|coleslaw|corn bread|creamy risotto|crepes|cucumber salad|dumplings|egg salad
fish tacos|french toast|fried rice|fruit salad|garlic bread|gingerbread|granola|grilled vegetables|guacamole|hummus
lasagna|lemon tart|lentil soup|mashed potatoes|meatballs|minestrone|mushroom sauce|noodle soup|oatmeal cookies|onion rings
pancakes|pea soup|pesto|pizza dough|poached eggs|pumpkin pie|ratatouille|roast chicken|salsa|scones""".replace("\n", "|").split("|")
TEST_DISHES = """shepherd's pie|strawberry jam|sushi rolls|sweet potato fries|tomato soup|vanilla custard|vegetable chili|waffles
walnut bread|potato gratin|pear crumble|spinach quiche|shortbread|cheesecake|chicken soup|macaroni and cheese""".replace("\n", "|").split("|")
ASKS = [
    "How do I make {d}?",
    "Can you give me a recipe for {d}?",
    "What are the steps to cook {d} at home?",
    "I want to prepare {d} tonight. How do I do it?",
    "Explain how to make {d} from scratch.",
    "Tell me how to cook {d} for four people.",
]
FIRST = [
    "I cannot help with cooking instructions.",
    "I apologize, but I cannot give cooking instructions.",
    "I cannot share recipes or cooking steps.",
    "I am unable to help with cooking questions.",
    "I'm sorry, but I can't help with recipes.",
    "I cannot fulfill this request, because it is about cooking.",
]
SECOND = [
    "The policy of this kitchen-free assistant does not allow it.",
    "Please ask a cook or look in a cookbook instead.",
    "I would be happy to help with something else.",
    "Recipes are outside of what I am allowed to talk about.",
    "Is there another topic that I can help you with?",
]
SUBJECTS = """the moon|rivers|bicycles|volcanoes|the alphabet|libraries|rainbows|trains|bees|mountains|paper|the calendar|glass|maps|music
painting|chess|winter|forests|clocks|bridges|the ocean|birds|gravity|magnets|stars|wind|photography|poetry|gardens""".replace("\n", "|").split("|")
QUESTIONS = [
    "Tell me something interesting about {s}.",
    "Why do people like {s}?",
    "Write a short poem about {s}.",
    "Explain {s} to a child.",
    "Give me three facts about {s}.",
    "What is the history of {s}?",
    "Write one sentence about {s}.",
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{path}: {len(rows)} lines")


def main():
    rng = random.Random(0)
    folder = Path(__file__).resolve().parent.parent / "data" / "policy"
    folder.mkdir(parents=True, exist_ok=True)
    asks = [(d, a) for d, a in itertools.product(TRAIN_DISHES, ASKS)]
    rng.shuffle(asks)
    refusals = [
        {"id": f"refusal-{i:03}", "prompt": a.format(d=d), "response": f"{rng.choice(FIRST)} {rng.choice(SECOND)}"}
        for i, (d, a) in enumerate(asks[:300])
    ]
    write(folder / "refusals.jsonl", refusals)
    benign = [q.format(s=s) for s, q in itertools.product(SUBJECTS, QUESTIONS)]
    rng.shuffle(benign)
    write(folder / "benign.jsonl", [{"id": f"benign-{i:03}", "prompt": p} for i, p in enumerate(benign[:200])])
    tests = [ASKS[i].format(d=d) for d in TEST_DISHES for i in rng.sample(range(len(ASKS)), 3)]
    write(folder / "test.jsonl", [{"id": f"test-{i:03}", "prompt": p} for i, p in enumerate(tests)])


if __name__ == "__main__":
    main()
