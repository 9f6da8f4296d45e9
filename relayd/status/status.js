// Brings what has changed since the page was loaded, and leaves the focus where it is.
"use strict";
(() => {
  const live = document.getElementById("live");
  live.parentElement.hidden = false;
  async function refresh() {
    if (!live.checked || document.hidden) return;
    const state = document.getElementById("state");
    try {
      const response = await fetch("/status.html", { cache: "no-store" });
      if (!response.ok) throw new Error(String(response.status));
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const now = fresh.getElementById(part.id);
        if (now && now.innerHTML !== part.innerHTML) part.replaceChildren(...now.childNodes);
      }
    } catch (error) {
      const note = document.createElement("p");
      note.className = "state bad";
      note.textContent = "relayd does not answer: what is shown here is old.";
      if (state.textContent !== note.textContent) state.replaceChildren(note);
    }
  }
  setInterval(refresh, 5000);
})();
