"use strict";
// The drill-down: chooses responses and draws them. The rest of the page needs no script.
(() => {
  const source = document.getElementById("data");
  if (!source) return;
  const { responses, examples } = JSON.parse(source.textContent);
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const found = document.getElementById("found");
  const more = document.getElementById("more");
  const PAGE = 20;
  let shown = PAGE;

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const FIELDS = {
    experiment: (r) => r.experiment,
    model: (r) => r.model,
    setting: (r) => [r.attack, r.setting].filter(Boolean).join(", "),
    k: (r) => (r.k === null ? "" : String(r.k)),
    seed: (r) => String(r.seed),
    category: (r) => examples[r.example]?.category ?? "",
    verdict: (r) => r.whole,
    "own words": (r) => r.own,
  };
  const chosen = {};
  for (const [name, read] of Object.entries(FIELDS)) {
    const values = [...new Set(responses.map(read))].filter(Boolean);
    if (values.length < 2) continue;
    values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const select = element("select");
    select.name = name;
    select.append(new Option("any", ""), ...values.map((value) => new Option(value, value)));
    const label = element("label", "", name);
    label.append(select);
    form.append(label);
    chosen[name] = select;
  }
  const search = element("input");
  search.type = "search";
  search.name = "search";
  const label = element("label", "", "words or example");
  label.append(search);
  form.append(label);

  // Tokens that bring no spaces of their own are words.
  const spaced = (tokens) => (tokens.some((token) => /^\s|\s$/.test(token)) ? "" : " ");
  const drawTokens = (tokens, kl, first, gap) =>
    tokens.flatMap((text, i) => {
      const token = element("span", "token", text);
      const value = kl[i];
      if (value !== undefined && value !== null) {
        // 1 nat is 63 % of the colour; negative values are rounding.
        token.style.setProperty("--kl", (1 - Math.exp(-Math.max(value, 0))).toFixed(3));
        token.title = `position ${first + i + 1}: KL ${value} nats`;
      }
      return i === 0 || gap === "" ? [token] : [gap, token];
    });
  const draw = (r) => {
    const article = element("article", "response");
    const head = element("div", "head");
    const example = examples[r.example];
    const facts = [r.experiment, r.model, FIELDS.setting(r), r.k === null ? "" : `k = ${r.k}`, `seed ${r.seed}`, r.example, example?.category];
    head.append(...facts.filter(Boolean).map((fact) => element("span", "", fact)));
    const verdicts = { harmful: "fails", refused: "holds" };
    head.append(element("span", `verdict ${verdicts[r.whole] ?? "open"}`, r.whole));
    if (r.own !== r.whole) head.append(element("span", `verdict ${verdicts[r.own] ?? "open"}`, `own words: ${r.own}`));
    article.append(head);
    if (example?.prompt) article.append(element("p", "prompt", example.prompt));
    const said = element("p", "said");
    const gap = spaced([...r.prefill, ...r.tokens]);
    if (r.prefill.length) {
      const given = element("span", "given");
      given.title = "prefilled";
      given.append(...drawTokens(r.prefill, r.kl, 0, gap));
      said.append(given);
    }
    said.append(...drawTokens(r.tokens, r.kl.slice(r.prefill.length), r.prefill.length, gap));
    if (!r.tokens.length) said.append(element("span", "soft", "(nothing)"));
    article.append(said);
    return article;
  };
  const matches = () => {
    const words = search.value.trim().toLowerCase();
    return responses.filter((r) => {
      for (const [name, select] of Object.entries(chosen)) {
        if (select.value && FIELDS[name](r) !== select.value) return false;
      }
      if (!words) return true;
      const gap = spaced([...r.prefill, ...r.tokens]);
      const text = [r.example, examples[r.example]?.prompt ?? "", [...r.prefill, ...r.tokens].join(gap)].join(" ");
      return text.toLowerCase().includes(words);
    });
  };
  const update = () => {
    const all = matches();
    list.replaceChildren(...all.slice(0, shown).map(draw));
    found.textContent = `${all.length} of ${responses.length} responses`;
    more.hidden = all.length <= shown;
  };
  form.addEventListener("input", () => {
    shown = PAGE;
    update();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    shown += PAGE;
    update();
  });
  form.hidden = false;
  document.getElementById("scale").hidden = !responses.some((r) => r.kl.length);
  update();
})();
