// Fetch the page anew twice a minute, and put in what has changed; the focus stays where it is.
const SECONDS = 30;
const pause = document.getElementById("pause");
const connection = document.getElementById("connection");
let paused = sessionStorage.getItem("paused") === "true";

function say(text) {
  if (connection.textContent !== text) connection.textContent = text;
}

function show() {
  pause.hidden = false;
  pause.setAttribute("aria-pressed", String(paused));
}

function place() {
  const content = document.getElementById("content");
  const at = document.activeElement;
  if (!at || !content.contains(at) || at === content) return null;
  const links = [...content.querySelectorAll("a")];
  const same = links.filter((link) => link.href === at.href);
  return { href: at.href, number: same.indexOf(at) };
}

function replace(fresh) {
  for (const name of ["content", "made"]) {
    const here = document.getElementById(name);
    const there = fresh.getElementById(name);
    if (!there) throw new Error("no page");
    if (here.innerHTML === there.innerHTML) continue;
    const before = name === "content" ? place() : null;
    here.replaceChildren(...there.childNodes);
    if (!before) continue;
    const links = [...here.querySelectorAll("a")].filter((link) => link.href === before.href);
    (links[before.number] || here).focus({ preventScroll: true });
  }
}

async function refresh() {
  try {
    const reply = await fetch(location.pathname, { cache: "no-store" });
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    replace(new DOMParser().parseFromString(await reply.text(), "text/html"));
    say("");
  } catch (error) {
    say("The page's server does not answer; what is shown is old.");
  }
}

pause.addEventListener("click", () => {
  paused = !paused;
  sessionStorage.setItem("paused", String(paused));
  show();
  if (!paused) refresh();
});
show();
setInterval(() => { if (!paused && !document.hidden) refresh(); }, SECONDS * 1000);
