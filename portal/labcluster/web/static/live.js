// Keeps the page fresh without a reload: the same page is fetched again and its middle put in place.
const everyMs = 5000;

async function refresh() {
  if (document.hidden) return;
  try {
    const page = await (await fetch(location.href)).text();
    const fresh = new DOMParser().parseFromString(page, "text/html").getElementById("live");
    const live = document.getElementById("live");
    if (fresh && fresh.innerHTML !== live.innerHTML && !String(getSelection())) live.replaceWith(fresh);
    live.removeAttribute("aria-busy");
  } catch {
    // The portal is away; the page stays as it was and the next turn tries again.
  }
}

setInterval(refresh, everyMs);
