/** A month of days: what each kind of circuit took above the line, what it gave below. */

import type { Energy } from "./api";
import { h, svg } from "./dom";

const WIDTH = 880;
const HEIGHT = 300;
const LEFT = 44;
const BOTTOM = 22;
const COLOURS: Record<string, string> = { power: "#0b6e6e", heat: "#d9743a", solar: "#e2b13c" };

const colour = (kind: string | null) => COLOURS[kind ?? ""] ?? "#8a9a9a";
const dayOf = (time: string) => Number(time.slice(8, 10));

export function chart({ intervals, groups }: Energy): HTMLElement {
  const days = intervals.interval_start;
  const sum = (field: "import_kwh" | "export_kwh", day: number) =>
    groups.reduce((total, group) => total + (group[field][day] ?? 0), 0);
  const most = Math.max(0.1, ...days.map((_, day) => sum("import_kwh", day)));
  const least = Math.max(0, ...days.map((_, day) => sum("export_kwh", day)));
  const step = niceStep((most + least) / 5);
  const [top, floor] = [Math.ceil(most / step) * step, -Math.ceil(least / step) * step];
  const y = (kwh: number) => 6 + ((top - kwh) / (top - floor)) * (HEIGHT - BOTTOM - 6);
  const width = (WIDTH - LEFT) / Math.max(1, days.length);

  const lines = [];
  for (let kwh = floor; kwh <= top + step / 2; kwh += step) {
    const zero = Math.abs(kwh) < step / 2;
    lines.push(
      svg("line", { x1: LEFT, x2: WIDTH, y1: y(kwh), y2: y(kwh), class: zero ? "zero" : "grid" }),
      svg("text", { x: LEFT - 8, y: y(kwh) + 4, "text-anchor": "end" }, String(Math.abs(+kwh.toFixed(2)))),
    );
  }
  const bars = days.flatMap((time, day) => {
    let [up, down] = [0, 0];
    return groups.flatMap((group) => {
      const [taken, given] = [group.import_kwh[day] ?? 0, group.export_kwh[day] ?? 0];
      const bar = (from: number, to: number, word: string) =>
        svg(
          "rect",
          { x: LEFT + day * width + width * 0.14, width: width * 0.72, y: y(to), height: y(from) - y(to),
            fill: colour(group.circuit_type), class: "bar" },
          svg("title", {}, `${time.slice(0, 10)}, ${group.circuit_type ?? "other"}: ${(to - from).toFixed(1)} kWh ${word}`),
        );
      const drawn = [];
      if (taken) drawn.push(bar(up, (up += taken), "taken"));
      if (given) drawn.push(bar(down - given, down, "given"));
      down -= given;
      return drawn;
    });
  });
  const names = days.map((time, day) =>
    svg("text", { x: LEFT + (day + 0.5) * width, y: HEIGHT - 4, "text-anchor": "middle" },
      day % 2 ? "" : String(dayOf(time))),
  );
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Energy of each day in kWh" },
    ...lines, ...bars, ...names);
  const legend = groups.map(({ circuit_type }) => {
    const mark = h("i");
    mark.style.background = colour(circuit_type);
    return h("span", {}, mark, circuit_type ?? "other");
  });
  return h("figure", {}, drawing, h("figcaption", {}, ...legend, h("small", {}, "kWh a day; below the line: given")));
}

function niceStep(raw: number): number {
  const power = 10 ** Math.floor(Math.log10(raw));
  return power * ([1, 2, 5].find((one) => one * power >= raw) ?? 10);
}
