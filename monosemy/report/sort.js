for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending';
    const key = (row) => {
      const cell = row.cells[column], value = cell.dataset.sort;
      return value === undefined ? cell.textContent : value === '' ? Infinity : Number(value);
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = key(a), y = key(b);
      const order = typeof x === 'number' ? (x === y ? 0 : x - y) : x.localeCompare(y, 'en', {numeric: true});
      return up ? order : -order;
    });
    heads.forEach((other) => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    table.tBodies[0].append(...rows);
  }));
}
