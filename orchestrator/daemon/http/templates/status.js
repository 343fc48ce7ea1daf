'use strict';
/* The page follows what happens: at each event the parts that have changed are put in place. Without this script the
   page is whole, and shows what was so when it was loaded. */
const live = document.getElementById('live');
let busy = false;
let again = false;
async function refresh() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    const answer = await fetch(location.href, { headers: { accept: 'text/html' }, redirect: 'error', cache: 'no-store' });
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
    document.title = fresh.title;
    for (const part of document.querySelectorAll('[data-live]')) {
      const other = fresh.getElementById(part.id);
      if (!other || other.innerHTML === part.innerHTML) continue;
      if (part.querySelector(':active')) { again = true; continue; }  // a click is under way: it would be lost
      const focused = part.contains(document.activeElement) ? document.activeElement : null;
      if (focused && focused.matches('button, summary, input')) continue;
      const place = focused && focused.matches('a') ? focused.getAttribute('href') : null;
      const scrolled = [...part.querySelectorAll('.scroll')].map((one) => one.scrollLeft);
      const open = [...part.querySelectorAll('details')].map((one) => one.open);
      part.replaceChildren(...document.importNode(other, true).childNodes);
      [...part.querySelectorAll('.scroll')].forEach((one, at) => { one.scrollLeft = scrolled[at] || 0; });
      [...part.querySelectorAll('details')].forEach((one, at) => { one.open = open[at] || false; });
      if (place !== null) [...part.querySelectorAll('a')].find((one) => one.getAttribute('href') === place)?.focus();
      else if (focused) part.querySelector('.scroll')?.focus();
    }
    show(true);
  } catch {
    show(false);
  } finally {
    busy = false;
    if (again) { again = false; setTimeout(refresh, 1000); }
  }
}
function show(well) {
  live.hidden = false;
  live.classList.toggle('lost', !well);
  live.textContent = well ? 'Live: this page follows what happens.' : 'The daemon does not answer: this is how it was.';
}
if (live) {
  const events = new EventSource('/api/v1/events');
  events.addEventListener('status', refresh);
  events.addEventListener('open', () => show(true));
  events.addEventListener('error', () => show(false));
}
