// What the page itself can say of how it looks and works.
addEventListener("load", () => {
  const cells = [...document.querySelectorAll("td[data-key]")].map((cell) => [cell.dataset.key, cell.innerText]);
  const marks = [...document.querySelectorAll("svg [data-key]")].map((mark) => [mark.dataset.key, Number(mark.dataset.value)]);
  const claims = [...document.querySelectorAll("#claims tr[id]")].map((row) => [row.id.slice(6), row.querySelector(".verdict").innerText]);
  const found = () => document.getElementById("found").innerText;
  const all = found();
  const choose = (name, value) => {
    const field = document.querySelector(`#filters [name="${name}"]`);
    field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };
  choose("k", "5");
  const some = found();
  choose("search", "number 7 ?");
  const one = found();
  const article = document.querySelector("#list article");
  const token = article.querySelector(".token");
  const box = (element) => element.getBoundingClientRect();
  const beyond = [...document.querySelectorAll("main *")].filter(
    (e) => box(e).right > innerWidth + 1 && !e.closest(".scroll") && !e.closest("nav") && box(e).width > 0,
  );
  const probe = {
    width: innerWidth,
    scrollWidth: document.documentElement.scrollWidth,
    beyond: beyond.map((e) => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`).slice(0, 5),
    background: getComputedStyle(document.body).backgroundColor,
    text: getComputedStyle(document.body).color,
    plotText: getComputedStyle(document.querySelector("svg.plot text")).fill,
    smallest: Math.min(...[...document.querySelectorAll("svg.plot")].map((svg) => box(svg).width)),
    cells, marks, claims, all, some, one,
    given: article.querySelector(".given").innerText,
    said: article.querySelector(".said").innerText,
    prompt: article.querySelector(".prompt").innerText,
    tokenColour: getComputedStyle(token).backgroundColor,
    tokenTitle: token.title,
  };
  const left = document.createElement("pre");
  left.id = "probe";
  left.textContent = JSON.stringify(probe);
  document.body.replaceChildren(left);
  if (parent !== window) parent.postMessage(left.textContent, "*");
});
