// A year of days as a chart, and its months as a table, from `format=columns`.
// In a page: document.body.innerHTML = await page(location.origin, token, 2026)
// In a shell: node chart.mjs http://127.0.0.1:8000 "$TOKEN" 2026 > chart.html

async function energy(url, token, year, granularity) {
  const query = new URLSearchParams({
    period_from: `${year}-01-01`, period_to: `${year + 1}-01-01`,
    granularity, group_by: "esco", format: "columns",
  });
  const headers = { Authorization: `Bearer ${token}` };
  const answer = await fetch(`${url}/v1/energy?${query}`, { headers });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail ?? body.title);
  return body;
}

// One array for each field: the x axis is in `intervals`, each line in `groups`.
export function chart({ intervals, groups }, width = 1100, height = 300) {
  const most = Math.max(1, ...groups.flatMap((group) => group.import_kwh));
  const step = width / Math.max(1, intervals.interval_start.length);
  const bars = groups.flatMap((group) => group.import_kwh.map((kwh, day) => {
    if (kwh === null) return ""; // nothing was reported: a gap, not a zero
    const tall = (kwh / most) * height;
    const colour = group.complete[day] ? "steelblue" : "lightsteelblue";
    const title = `${intervals.interval_start[day].slice(0, 10)}: ${kwh} kWh`;
    return `<rect x="${(day * step).toFixed(2)}" y="${(height - tall).toFixed(2)}"`
      + ` width="${(step * 0.8).toFixed(2)}" height="${tall.toFixed(2)}" fill="${colour}">`
      + `<title>${title}</title></rect>`;
  }));
  return `<svg viewBox="0 0 ${width} ${height}">${bars.join("")}</svg>`;
}

export function table({ intervals, groups }) {
  const rows = intervals.interval_start.flatMap((start, month) => groups.map((group) => {
    const share = group.present_intervals[month] / (intervals.expected_intervals[month] || 1);
    return `<tr><td>${start.slice(0, 7)}</td><td>${group.esco}</td>`
      + `<td>${group.import_kwh[month] ?? ""}</td><td>${Math.round(share * 100)} %</td></tr>`;
  }));
  const head = "<tr><th>month</th><th>ESCO</th><th>kWh</th><th>reported</th></tr>";
  return `<table>${head}${rows.join("")}</table>`;
}

export async function page(url, token, year) {
  const [days, months] = await Promise.all(
    ["P1D", "P1M"].map((granularity) => energy(url, token, year, granularity)),
  );
  return chart(days) + table(months);
}

if (globalThis.process?.argv[2]) {
  const [, , url, token, year] = process.argv;
  console.log(await page(url, token, Number(year)));
}
