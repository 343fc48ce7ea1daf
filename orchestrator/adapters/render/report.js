'use strict';
/* Search and sorting. Without this script every table is whole, in the order of the source. */
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0];
  const words = new Intl.Collator(undefined, { numeric: true, sensitivity: 'base' });
  const value = (row, at) => row.cells[at].dataset.sort ?? row.cells[at].textContent.trim();
  for (const head of table.tHead.rows[0].cells) {
    if (head.dataset.fixed !== undefined) continue;
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const up = head.getAttribute('aria-sort') !== 'ascending';
      for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const rows = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
      rows.sort(([one], [other]) => {
        if (one === '' || other === '') return (one === '') - (other === '');
        return up ? words.compare(one, other) : words.compare(other, one);
      });
      body.append(...rows.map(([, row]) => row));
    });
  }
}
const search = document.getElementById('search');
if (search) {
  const input = search.querySelector('input');
  const count = search.querySelector('output');
  const rows = [...document.querySelectorAll('table.rows tbody tr')];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const show = () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, at) => {
      row.hidden = !wanted.every((word) => texts[at].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = wanted.length ? `${shown.toLocaleString('en')} of ${rows.length.toLocaleString('en')} rows` : '';
  };
  search.hidden = false;
  input.addEventListener('input', show);
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') { input.value = ''; show(); }
  });
}
