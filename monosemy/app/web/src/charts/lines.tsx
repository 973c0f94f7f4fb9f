/** One or more curves over the same axis. */
import { num } from "../format";
import { DataTable } from "../parts/bits";
import { useWidth } from "../state";
import { Axes } from "./axes";
import type { Frame } from "./axes";
import { domainOf, scale } from "./scale";

export interface Series {
  name: string;
  /** Class that gives its colour. */
  tone: string;
  dash?: string;
  values: (number | null)[];
}
interface LinesProps {
  title: string;
  xName: string;
  yName: string;
  x: number[];
  series: Series[];
  log?: boolean;
  height?: number;
  zero?: boolean;
}

export function Lines({ title, xName, yName, x: places, series, log = false, height = 190, zero = false }: LinesProps) {
  const [ref, width] = useWidth<HTMLDivElement>();
  const frame: Frame = { width, height, left: 44, right: 10, top: 24, bottom: 36 };
  const all = series.flatMap((s) => s.values);
  const x = scale(false, domainOf(places, false, 0.03), [frame.left, width - frame.right]);
  const y = scale(log, domainOf(zero ? [...all, 0] : all, log), [height - frame.bottom, frame.top]);
  const drawable = (value: number | null | undefined): value is number => value !== null && value !== undefined && Number.isFinite(value) && (!log || value > 0);
  const path = (values: (number | null)[]) => {
    let pen = "M";
    let d = "";
    values.forEach((value, i) => {
      if (drawable(value)) d += `${pen}${x.at(places[i] ?? 0)},${y.at(value)}`;
      pen = drawable(value) ? "L" : "M";
    });
    return d;
  };
  return (
    <figure class="chart" ref={ref} aria-label={title}>
      {width > 0 && (
        <svg viewBox={`0 0 ${width} ${height}`} height={height} role="img" aria-label={`${title}, the table below has the numbers`}>
          <Axes frame={frame} x={x} y={y} xName={xName} yName={yName} />
          {series.map((s) => (
            <g class={s.tone} key={s.name}>
              <path class="curve" d={path(s.values)} stroke-dasharray={s.dash} />
              {s.values.map((value, i) =>
                drawable(value) ? (
                  <circle class="mark" key={i} cx={x.at(places[i] ?? 0)} cy={y.at(value)} r={3}>
                    <title>{`${s.name}, ${xName} ${num(places[i])}: ${num(value)}`}</title>
                  </circle>
                ) : null,
              )}
            </g>
          ))}
        </svg>
      )}
      <DataTable title={title} head={[xName, ...series.map((s) => s.name)]} rows={places.map((at, i) => [num(at), ...series.map((s) => num(s.values[i]))])} />
    </figure>
  );
}
