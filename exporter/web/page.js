// Keeps the page up to date: the server renders, this asks again and changes only what differs, so that the focus, a
// selection and an opened detail stay. Nothing that it receives is ever run as script.
"use strict";
(() => {
  const main = document.getElementById("main");
  const lost = document.getElementById("lost");
  const pause = document.getElementById("pause");
  const every = 1000 * Number(document.body.dataset.pollSeconds);
  let paused = false;

  function sync(now, next) {
    if (now.nodeType !== next.nodeType || now.nodeName !== next.nodeName) {
      now.replaceWith(document.importNode(next, true));
      return;
    }
    if (now.nodeType !== Node.ELEMENT_NODE) {
      if (now.data !== next.data) now.data = next.data;
      return;
    }
    for (const { name } of [...now.attributes]) {
      if (!next.hasAttribute(name) && name !== "open") now.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (now.getAttribute(name) !== value && name !== "open") now.setAttribute(name, value);
    }
    while (now.childNodes.length > next.childNodes.length) now.lastChild.remove();
    [...next.childNodes].forEach((child, position) => {
      if (position < now.childNodes.length) sync(now.childNodes[position], child);
      else now.append(document.importNode(child, true));
    });
  }

  async function update() {
    if (!paused && !document.hidden) {
      try {
        const answer = await fetch(location.pathname, { signal: AbortSignal.timeout(10000), cache: "no-store" });
        if (!answer.ok) throw new Error(String(answer.status));
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (!paused) {
          sync(main, page.getElementById("main"));
          document.title = page.title;
        }
        lost.hidden = true;
        document.documentElement.classList.remove("lost");
      } catch {
        const when = main.querySelector("time");
        lost.textContent = `The daemon does not answer. What stands below is old${when ? `: it was read at ${when.textContent}` : ""}.`;
        lost.hidden = false;
        document.documentElement.classList.add("lost");
      }
    }
    setTimeout(update, every);
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      // Without TLS there is no clipboard to write to; what is selected can still be copied.
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume updates" : "Pause updates";
    pause.setAttribute("aria-pressed", String(paused));
  });

  document.documentElement.classList.add("js");
  pause.hidden = false;
  setTimeout(update, every);
})();
